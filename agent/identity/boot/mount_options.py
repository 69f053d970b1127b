"""Mount options, and which of them another filesystem takes. Pure."""

from typing import Final


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_GENERIC: Final = _words(
    "rw ro exec noexec suid nosuid dev nodev auto noauto user nouser users group owner sync async "
    "dirsync atime noatime diratime nodiratime relatime norelatime strictatime nostrictatime "
    "lazytime nolazytime iversion noiversion silent loud defaults nofail _netdev mand nomand "
    "discard nodiscard context fscontext defcontext rootcontext comment"
)
_QUOTAS: Final = _words("usrquota grpquota prjquota quota noquota")
_OWN: Final = {
    "ext": _QUOTAS
    | _words(
        "errors data commit barrier nobarrier journal_checksum nojournal_checksum acl noacl "
        "journal_async_commit journal_ioprio journal_dev journal_path noload norecovery stripe sb "
        "user_xattr nouser_xattr usrjquota grpjquota jqfmt resuid resgid delalloc nodelalloc "
        "auto_da_alloc noauto_da_alloc dioread_lock dioread_nolock init_itable noinit_itable "
        "inode_readahead_blks max_batch_time min_batch_time max_dir_size_kb grpid nogrpid "
        "bsdgroups sysvgroups minixdf bsddf block_validity noblock_validity i_version dax debug bh "
        "nobh nombcache prefetch_block_bitmaps no_prefetch_block_bitmaps mb_optimize_scan"
    ),
    "xfs": _QUOTAS
    | _words(
        "allocsize attr2 noattr2 filestreams grpid nogrpid bsdgroups sysvgroups ikeep noikeep "
        "inode32 inode64 largeio nolargeio logbufs logbsize logdev rtdev noalign norecovery nouuid "
        "sunit swidth swalloc wsync uquota uqnoenforce gquota gqnoenforce pquota pqnoenforce "
        "qnoenforce barrier nobarrier dax"
    ),
    "btrfs": _words(
        "acl noacl autodefrag noautodefrag barrier nobarrier clear_cache commit compress "
        "compress-force datacow nodatacow datasum nodatasum degraded device enospc_debug "
        "fatal_errors flushoncommit noflushoncommit fragment nologreplay max_inline metadata_ratio "
        "rescue rescan_uuid_tree skip_balance space_cache nospace_cache ssd nossd ssd_spread "
        "nossd_spread subvol subvolid thread_pool treelog notreelog user_subvol_rm_allowed"
    ),
    "f2fs": _words("acl noacl user_xattr nouser_xattr background_gc"),
    "vfat": _words(
        "umask dmask fmask uid gid iocharset codepage shortname utf8 flush quiet errors check "
        "time_offset tz allow_utime dos1xfloppy rodir nfs showexec usefree sys_immutable"
    ),
    "swap": _words("sw pri"),
}
_OF_ONE_DEVICE: Final = _words("sunit swidth logdev rtdev journal_dev journal_path sb")
"""Options that name a place or the geometry of the device that was."""


def kept_options(text: str, old_type: str, new_type: str, *, moved: bool) -> list[str]:
    """Return the options that a filesystem of `new_type` takes, in order."""
    words = [word for word in text.split(",") if word]
    if moved:
        words = [word for word in words if word.partition("=")[0] not in _OF_ONE_DEVICE]
    if family(old_type) == family(new_type):
        return words
    allowed = _GENERIC | _OWN.get(family(new_type), frozenset())
    return [
        word
        for word in words
        if word.lower().startswith("x-") or word.partition("=")[0] in allowed
        # both have the word, each with values of its own
        if word.partition("=")[0] not in ("errors", "commit", "compress", "data")
    ]


def family(kind: str) -> str:
    """Return the kind of filesystem; ext2, ext3 and ext4 are one."""
    return "ext" if kind in ("ext2", "ext3", "ext4") else kind
