"""What people touch: the command line, the headless course and the web page."""

import click


class Command(click.Command):
    """A command of unetlib. It has --debug, which `cli.main` reads, and refuses empty values, which
    are most often variables that are not set: ValueError names the parameter."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if "debug" not in {param.name for param in self.params}:
            how = {"is_flag": True, "expose_value": False, "help": "Show tracebacks of errors."}
            self.params.append(click.Option(["--debug"], **how))

    def invoke(self, ctx: click.Context):
        for name, value in ctx.params.items():
            texts = value if isinstance(value, tuple) else (value,)
            if any(isinstance(text, str) and not text.strip() for text in texts):
                raise ValueError(f"{name} is empty (a variable that is not set?)")
        return super().invoke(ctx)
