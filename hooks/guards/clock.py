"""Whether the clock can be trusted."""

from __future__ import annotations

import ctypes

from ephemeroot.linux import kernel

# include/uapi/linux/timex.h
_STA_UNSYNC = 0x0040
_TIME_ERROR = 5


class _Timex(ctypes.Structure):
    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    )


def is_synchronised() -> bool:
    """Whether the kernel believes its clock to be synchronised, see adjtimex(2).

    In an initramfs it practically never is: the time is what the hardware clock says.
    """
    state = _Timex()
    if kernel.libc.adjtimex(ctypes.byref(state)) == _TIME_ERROR:
        return False
    return not state.status & _STA_UNSYNC
