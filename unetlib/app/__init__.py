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
        given = [(param, ctx.params.get(param.name)) for param in self.params]
        for param, value in given:
            if isinstance(value, tuple):  # given several times, or a pair
                given += [(param, one) for one in value]
            elif isinstance(value, str) and not value.strip():
                hint = param.get_error_hint(ctx)
                raise ValueError(f"{hint} is empty (a variable that is not set?)")
        return super().invoke(ctx)
