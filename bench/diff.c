/* The least that comparing two trees can cost: list both, stat everything in both, compare.
 * Prints how many names differ. Reads no content. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static long differences;

struct names {
  char **name;
  size_t count;
};

static int by_name(const void *one, const void *other) {
  return strcmp(*(char *const *)one, *(char *const *)other);
}

static struct names list(int fd) {
  struct names found = {NULL, 0};
  size_t room = 0;
  DIR *directory = fdopendir(dup(fd));
  struct dirent *entry;
  while (directory && (entry = readdir(directory))) {
    if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
      continue;
    if (found.count == room)
      found.name = realloc(found.name, (room = room ? 2 * room : 64) * sizeof(char *));
    found.name[found.count++] = strdup(entry->d_name);
  }
  if (directory)
    closedir(directory);
  qsort(found.name, found.count, sizeof(char *), by_name);
  return found;
}

static int differ(const struct stat *a, const struct stat *b) {
  if (a->st_mode != b->st_mode || a->st_uid != b->st_uid || a->st_gid != b->st_gid)
    return 1;
  return !S_ISDIR(a->st_mode) &&
         (a->st_size != b->st_size || a->st_mtim.tv_sec != b->st_mtim.tv_sec ||
          a->st_mtim.tv_nsec != b->st_mtim.tv_nsec);
}

static void compare(int one, int other) {
  struct names a = list(one), b = list(other);
  size_t i = 0, j = 0;
  while (i < a.count || j < b.count) {
    int order = i == a.count ? 1 : j == b.count ? -1 : strcmp(a.name[i], b.name[j]);
    if (order) {
      differences++;
      order < 0 ? i++ : j++;
      continue;
    }
    struct stat x, y;
    fstatat(one, a.name[i], &x, AT_SYMLINK_NOFOLLOW);
    fstatat(other, b.name[j], &y, AT_SYMLINK_NOFOLLOW);
    differences += differ(&x, &y);
    if (S_ISDIR(x.st_mode) && S_ISDIR(y.st_mode)) {
      int p = openat(one, a.name[i], O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
      int q = openat(other, b.name[j], O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
      compare(p, q);
      close(p);
      close(q);
    }
    i++;
    j++;
  }
  for (i = 0; i < a.count; i++)
    free(a.name[i]);
  for (j = 0; j < b.count; j++)
    free(b.name[j]);
  free(a.name);
  free(b.name);
}

int main(int argc, char **argv) {
  if (argc != 3)
    return 2;
  int one = open(argv[1], O_RDONLY | O_DIRECTORY), other = open(argv[2], O_RDONLY | O_DIRECTORY);
  if (one < 0 || other < 0)
    return 1;
  compare(one, other);
  printf("%ld\n", differences);
  return 0;
}
