"""Formats of coders: Bathyscope's own and those of others, a file each; `coders` is what the library uses of them."""

from bathyscope.sae.formats.coders import (
    WRITABLE,
    coder_folders,
    find_coder,
    load_coder,
    save_coder,
    writable,
)

__all__ = ["WRITABLE", "coder_folders", "find_coder", "load_coder", "save_coder", "writable"]
