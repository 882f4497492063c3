"""The device's side of ADB as a program of its own, so that real clients can be pointed at something.

Written against AOSP's packages/modules/adb (protocol.txt, OVERVIEW.TXT, SYNC.TXT, file_sync_protocol.h,
shell_protocol.h) and against what adb 29.0.6 and 36.0.0 send. Commands really run and files are really written.

Not there: ptys (`shell:` merges stderr into stdout and is otherwise raw), TLS (STLS), compression in sync v2,
`reverse:`, root/remount/reboot, `cmd:` and `abb:`.

    python -m tests.peers.adbd --port 0 --root DIR

prints `PORT n` once it listens, and runs until SIGTERM or SIGINT.
"""
