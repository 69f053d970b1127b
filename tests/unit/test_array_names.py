"""What names an array of Intel's RAID by its UUID follows when it gets another."""

from pathlib import Path

from agent.identity.boot.array_names import follow_uuids
from agent.system.rooted import RootedTree

OLD, NEW = "0a0b0c0d:11121314:21222324:31323334", "aaaaaaaa:bbbbbbbb:cccccccc:dddddddd"
BOX, NEW_BOX = "01010101:02020202:03030303:04040404", "99999999:88888888:77777777:66666666"
OTHER = "0a0b0c0d:11121314:21222324:00000000"


def put(top: Path, path: str, text: str) -> None:
    (top / path).parent.mkdir(parents=True, exist_ok=True)
    (top / path).write_text(text)


def follow(top: Path, new: dict[str, tuple[str, str]]) -> list[str]:
    with RootedTree(top) as tree:
        return [touched.path for touched in follow_uuids(tree, new)]


def test_the_volume_and_its_container_are_renamed(tmp_path: Path) -> None:
    put(
        tmp_path,
        "etc/mdadm.conf",
        f"ARRAY metadata=imsm UUID={BOX}\nARRAY /dev/md/v container={BOX} member=0 UUID={OLD}\n"
        f"ARRAY /dev/md0 UUID={OTHER}\n",
    )
    environment = f"# GRUB Environment Block\nkernelopts=rd.md.uuid={OLD} quiet\n".ljust(1024, "#")
    put(tmp_path, "boot/grub2/grubenv", environment)
    put(tmp_path, "boot/loader/entries/a.conf", f"options rd.md.uuid={OLD.upper()} ro\n")
    put(tmp_path, "boot/grub2/grub.cfg", f"linux /vmlinuz rd.md.uuid={OTHER}\n")
    assert follow(tmp_path, {OLD: (NEW, NEW_BOX)}) == [
        "/etc/mdadm.conf",
        "/boot/grub2/grubenv",
        "/boot/loader/entries/a.conf",
    ]
    assert (tmp_path / "etc/mdadm.conf").read_text() == (
        f"ARRAY metadata=imsm UUID={NEW_BOX}\nARRAY /dev/md/v container={NEW_BOX} member=0 "
        f"UUID={NEW}\nARRAY /dev/md0 UUID={OTHER}\n"
    )
    env = (tmp_path / "boot/grub2/grubenv").read_text()
    assert env == environment.replace(OLD, NEW)
    assert len(env) == 1024
    assert (tmp_path / "boot/loader/entries/a.conf").read_text() == f"options rd.md.uuid={NEW} ro\n"


def test_two_that_change_places_are_not_mixed_up(tmp_path: Path) -> None:
    put(tmp_path, "etc/default/grub", f"rd.md.uuid={OLD} rd.md.uuid={OTHER}")
    assert follow(tmp_path, {OLD: (OTHER, BOX), OTHER: (OLD, BOX)}) == ["/etc/default/grub"]
    assert (tmp_path / "etc/default/grub").read_text() == f"rd.md.uuid={OTHER} rd.md.uuid={OLD}"


def test_nothing_is_touched_where_all_keep_theirs(tmp_path: Path) -> None:
    put(tmp_path, "etc/mdadm.conf", f"ARRAY metadata=imsm UUID={OLD}\n")
    before = (tmp_path / "etc/mdadm.conf").stat()
    assert follow(tmp_path, {}) == []
    assert (tmp_path / "etc/mdadm.conf").stat().st_ino == before.st_ino
