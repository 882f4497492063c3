"""An emulated arm64 phone: Android's folders, tools and shell under qemu-user, served by tests.peers.adbd.

It lives in namespaces of its own and shares the loopback network, so that `tcp:PORT` reaches what listens inside.
It shows what runs where there is no glibc, no Python, no /sys, no /tmp and no right beyond those of `shell`. It does
not show bionic, SELinux, seccomp, a vendor's kernel, sensors, or any time that means something.

    python -m tests.peers.phone [--port N]
"""

from tests.peers.phone.machine import Phone, phone, why_not

__all__ = ["Phone", "phone", "why_not"]
