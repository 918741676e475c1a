#!/bin/sh
# Installs what Debian or Ubuntu must provide and pip cannot: a C++ compiler (llama.cpp is built from source), OpenSSH's
# sshd and ssh-keygen (the board `local` is this computer behind an sshd of its own), venv. Does nothing where all is there.
# With the argument `boards` also what virtual boards need: QEMU, and the makers of their Debian image; with `browser` a Chromium,
# in which the chat page is tested.
set -eu

missing=""
need() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || missing="$missing $2"; }
need c++ g++
need make make
need sshd openssh-server
need ssh-keygen openssh-client
case " $* " in *" boards "*)
    need qemu-system-aarch64 qemu-system-arm
    need qemu-img qemu-utils
    need fdtput device-tree-compiler
    need mmdebstrap mmdebstrap
    [ "$(uname -m)" = aarch64 ] || need qemu-aarch64-static qemu-user-static
    need mke2fs e2fsprogs
    need debugfs e2fsprogs
    [ "$(id -u)" = 0 ] || need newuidmap uidmap
    # login shells that people have on their boards
    need tcsh tcsh
    need fish fish
    need zsh zsh ;;
esac
case " $* " in *" browser "*) need chromium chromium ;; esac
"${PYTHON:-python3}" -c 'import venv, ensurepip' 2>/dev/null || missing="$missing python3-venv"
[ -z "$missing" ] && exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "please install:$missing" >&2
    exit 3
fi
as_root=""
[ "$(id -u)" = 0 ] || as_root="sudo"
echo "installing with apt:$missing"
$as_root apt-get update -qq
DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null

# Debian starts a system-wide sshd on installation: nobody asked for one here.
case "$missing" in *openssh-server*)
    if [ -d /run/systemd/system ]; then $as_root systemctl disable --now ssh.service ssh.socket 2>/dev/null || true; fi ;;
esac
