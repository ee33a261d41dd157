"""The command `unetlib networks`."""

import click


@click.command(short_help="List the networks that have a name.")
def networks() -> None:
    """Networks for --network NAME: size, input, whether it is here, IoU and licence.

    The IoU is the mean on photos of people that were held out from training, at their own size;
    `-` was not measured. Public networks are downloaded when they are first asked for.
    """
    from unetlib import pretrained

    click.echo(
        f"{'name':<22} {'MB':>6} {'input':>6}  {'here':<5} {'IoU':>5}  licence; what it finds"
    )
    for name, network in pretrained.NETWORKS.items():
        here = network.path.is_file()
        size = network.path.stat().st_size if here else network.bytes
        iou = "-" if network.iou is None else f"{network.iou:.3f}"
        click.echo(
            f"{name:<22} {size / 1e6:>6.1f} {network.size:>6}  {'yes' if here else 'no':<5} "
            f"{iou:>5}  {network.licence}; {network.about}"
        )
    try:
        best = pretrained.find("best")
        click.echo(f"{'best':<22} {best.stat().st_size / 1e6:>6.1f}  your last training: {best}")
    except FileNotFoundError:
        click.echo(f"{'best':<22} {'':>6}  your last training: none yet")
