"""What people touch: the widget, the headless course and the command line."""
