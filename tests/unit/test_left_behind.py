"""What a plan says that a copy of the files to another layout does not take along."""

from agent.model.layout import Layout, Vfat
from agent.planning.reshape import left_behind
from tests.unit.make_plan import make_layout


def without_vfat(layout: Layout) -> Layout:
    kept = (volume for volume in layout.volumes if not isinstance(volume.content, Vfat))
    return Layout(nodes=layout.nodes, volumes=tuple(kept))


def test_an_efi_partition_is_made_new_without_other_loaders() -> None:
    (line,) = left_behind(make_layout(), make_layout())
    assert line.endswith("is made new: files of other loaders on it are left behind")


def test_a_layout_without_an_efi_partition_does_not_promise_one() -> None:
    (line,) = left_behind(make_layout(), without_vfat(make_layout()))
    assert line.endswith("is not made and left behind")
