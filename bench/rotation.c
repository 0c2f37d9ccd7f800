/* The floor for bench/stages.py: the calls that a rotation cannot do without, and nothing else.
 * No proof, no recovery, no name that tells the time: what is left is the kernel's own share.
 * Usage: rotation DEVICE MOUNT-POINT. Old roots whose names begin with "due-" are deleted. */

#define _GNU_SOURCE
#include <btrfsutil.h>
#include <dirent.h>
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static void check(enum btrfs_util_error error, const char *name)
{
	if (error)
		errx(1, "%s: %s", name, btrfs_util_strerror(error));
}

int main(int argc, char **argv)
{
	if (argc != 3)
		errx(2, "usage: %s DEVICE MOUNT-POINT", argv[0]);
	mkdir(argv[2], 0700);
	if (mount(argv[1], argv[2], "btrfs", 0, "subvolid=5"))
		err(1, "%s", argv[1]);
	int top = open(argv[2], O_RDONLY | O_DIRECTORY);
	if (top < 0)
		err(1, "%s", argv[2]);
	check(btrfs_util_create_subvolume_fd(top, "fresh", 0, NULL, NULL), "fresh");
	if (renameat2(top, "fresh", top, "root", RENAME_EXCHANGE))
		err(1, "root");
	mkdirat(top, "old_roots", 0755);
	if (renameat(top, "fresh", top, "old_roots/retired"))
		err(1, "old_roots/retired");
	if (syncfs(top))
		err(1, "syncfs");
	int old = openat(top, "old_roots", O_RDONLY | O_DIRECTORY);
	DIR *names = fdopendir(dup(old));
	struct dirent *entry;
	while ((entry = readdir(names)))
		if (!strncmp(entry->d_name, "due-", 4))
			check(btrfs_util_delete_subvolume_fd(old, entry->d_name,
							     BTRFS_UTIL_DELETE_SUBVOLUME_RECURSIVE),
			      entry->d_name);
	closedir(names);
	close(old);
	close(top);
	if (umount(argv[2]))
		err(1, "umount %s", argv[2]);
	return 0;
}
