"""The machine of the Vagrantfile, as a command needs it."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.guest.vagrant import Machine, VagrantGuest
from harness.cli.options import note


def the_machine() -> "Machine":
    """The machine of this repository's Vagrantfile, as it is."""
    from harness.guest.vagrant import Machine

    return Machine(Path(__file__).parents[2], note)


def vagrant_machine() -> "Machine":
    """The machine of this repository's Vagrantfile, up.

    Raises:
        ProvisioningError: it is not available.
    """
    machine = the_machine()
    machine.up()
    return machine


def fit_vagrant_guest() -> "VagrantGuest":
    """That machine, up and fit.

    Raises:
        ProvisioningError: it is not available, or not fit even after a reboot.
    """
    from harness.measure.preflight import fit_vagrant

    return fit_vagrant(the_machine())
