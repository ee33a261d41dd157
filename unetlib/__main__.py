"""`python -m unetlib` is the console command `unetlib`."""

from unetlib.app.cli import main

if __name__ == "__main__":
    main()
