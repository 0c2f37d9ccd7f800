#!/bin/sh
/usr/lib/vm-harness/report initramfs
