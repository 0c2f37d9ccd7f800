/* The floor for binding declared directories: the same hardened calls as the persistence stage, and
 * nothing else. Every place is opened beneath its tree with openat2, no symbolic link followed;
 * mounts are cloned, made private and attached by descriptor. No plan, no proof of the store, no
 * seeding, no report.
 * Usage: binds STORE ROOT COUNT: binds STORE/srv/dN on ROOT/srv/dN, which is created first. */

#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_open_tree
#define SYS_open_tree 428
#define SYS_move_mount 429
#define SYS_openat2 437
#define SYS_mount_setattr 442
#endif

struct attributes {
	uint64_t set, clear, propagation, namespace;
};

static int beneath(int top, const char *path, uint64_t flags)
{
	struct open_how how = {
	    .flags = flags | O_CLOEXEC,
	    .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS,
	};
	int fd = syscall(SYS_openat2, top, path, &how, sizeof how);
	if (fd < 0)
		err(1, "%s", path);
	return fd;
}

static void bind_one(int store, int root, int parent, int number)
{
	char name[64], path[80];
	struct attributes private = {.propagation = MS_PRIVATE};
	snprintf(name, sizeof name, "d%d", number);
	snprintf(path, sizeof path, "srv/%s", name);
	if (mkdirat(parent, name, 0700))
		err(1, "%s", path);
	int target = beneath(root, path, O_PATH | O_DIRECTORY);
	int source = beneath(store, path, O_PATH | O_DIRECTORY);
	int mount = syscall(SYS_open_tree, source, "", 1 | O_CLOEXEC | AT_EMPTY_PATH);
	if (mount < 0)
		err(1, "open_tree %s", path);
	if (syscall(SYS_mount_setattr, mount, "", AT_EMPTY_PATH, &private, sizeof private))
		err(1, "mount_setattr %s", path);
	if (syscall(SYS_move_mount, mount, "", target, "", 0x44))
		err(1, "move_mount %s", path);
	close(mount);
	close(source);
	close(target);
}

int main(int argc, char **argv)
{
	if (argc != 4)
		errx(2, "usage: %s STORE ROOT COUNT", argv[0]);
	int store = open(argv[1], O_PATH | O_DIRECTORY | O_CLOEXEC);
	int root = open(argv[2], O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (store < 0 || root < 0)
		err(1, "%s, %s", argv[1], argv[2]);
	/* The root is read-only until the persistence stage has made it writable. */
	if (mount("none", argv[2], NULL, MS_REMOUNT, NULL))
		err(1, "remount %s", argv[2]);
	if (mkdirat(root, "srv", 0755) && access(argv[2], F_OK))
		err(1, "srv");
	int parent = beneath(root, "srv", O_PATH | O_DIRECTORY);
	for (int number = 0; number < atoi(argv[3]); number++)
		bind_one(store, root, parent, number);
	return 0;
}
