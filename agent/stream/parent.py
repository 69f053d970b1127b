"""The parent of an incremental capture: what it holds of each chunk, without being fetched."""

import msgspec

from agent.model.template import FROM_ANNOTATION, Descriptor, IndexEntry
from agent.store.template import Template


class ParentVolume:
    """The index of the parent's volume, read in step with the capture: memory does not grow.

    Chunks are compared place by place, so only what stays where it was is found again.
    """

    def __init__(self, template: Template, volume_id: str) -> None:
        head, self._entries = template.entries(volume_id)
        self.digest = head.content_digest
        self.template = template
        self._packs = template.data_of(volume_id).packs
        self._next: IndexEntry | None = None

    def at(self, number: int) -> IndexEntry | None:
        """Return what the parent stores as chunk `number`; ask in ascending order."""
        while self._next is None or self._next.number < number or self._next.pack < 0:
            self._next = next(self._entries, None)
            if self._next is None:
                return None
        return self._next if self._next.number == number else None

    def pack(self, number: int) -> Descriptor:
        """Return a pack of the parent as a manifest that takes it over lists it."""
        pack = self._packs[number]
        annotations = {FROM_ANNOTATION: self.template.digest, **pack.annotations}
        return msgspec.structs.replace(pack, annotations=annotations)


def parent_volume(template: Template | None, volume_id: str) -> ParentVolume | None:
    """Return that volume of the parent, if it has one of that name."""
    if template is None or volume_id not in template.blobs:
        return None
    return ParentVolume(template, volume_id)
