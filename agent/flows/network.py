"""The network that a job asks for, as files of the system that is deployed."""

from collections.abc import Sequence

from agent.errors import PlanRefused
from agent.identity.configure import NetworkFiles
from agent.model.inventory import Nic
from agent.model.steps import ConfigureSystem
from agent.network import intended_network, render_network


def network_files(step: ConfigureSystem, nics: Sequence[Nic]) -> NetworkFiles:
    """Return the network files for the system's own stack; DHCP if the job asks for nothing.

    Raises PlanRefused with everything that is wrong with what the job asks for, or that the
    system's stack cannot express.
    """
    if step.stack is None:
        if step.network is not None:
            raise PlanRefused(
                ("the job names a network, but what configures the template's network is unknown",),
                hint="leave the network out of the job, and configure it after the first boot",
            )
        return NetworkFiles()
    config = intended_network(step.network, nics)
    return NetworkFiles.of(render_network(config, step.stack, nics), step.stack)
