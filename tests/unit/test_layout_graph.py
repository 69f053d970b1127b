"""Walking the layout graph, also one that was made to hurt."""

from agent.model.layout import Layout
from agent.model.nodes import Array, Disk, MdLevel, MdMetadata


def test_what_stands_on_one_thing_many_times_is_walked_once() -> None:
    disk = Disk(id="d0", size_bytes=1, sector_bytes=512, physical_sector_bytes=512, table=None)
    nodes: list[Disk | Array] = [disk]
    for number in range(200):
        below = nodes[-1].id
        nodes.append(
            Array(
                id=f"md{number}",
                members=(below, below),
                level=MdLevel.RAID1,
                metadata=MdMetadata.V1_2,
                uuid=":".join(["00000000"] * 4),
                size_bytes=1,
            )
        )
    layout = Layout(nodes=tuple(nodes), volumes=())
    assert layout.carriers("md199") == tuple(nodes)
    assert layout.disks_of("md199") == (disk,)
