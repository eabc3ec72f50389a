#include "support/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* lock_look() of another process holds the lock for a moment. */
enum { TRIES = 20, PAUSE_MS = 5 };

static char *lock_path(const char *folder) {
    char *path;
    return asprintf(&path, "%s/%s", folder, LOCK_NAME) < 0 ? NULL : path;
}

static exit_code refuse(const char *folder, int file, problems *list) {
    char holder[160] = "";
    ssize_t n = pread(file, holder, sizeof holder - 1, 0);
    if (n > 0) holder[strcspn(holder, "\n")] = '\0';
    return problem(list, EXIT_INPUT,
                   "%s: another run writes to it%s%s%s; let it end, or choose another --out", folder,
                   n > 0 ? " (" : "", n > 0 ? holder : "", n > 0 ? ")" : "");
}

/* False: somebody else has it. Where the file system knows no locks there is nothing to hold. */
static bool try_lock(int file, int kind) {
    const struct timespec pause = {.tv_nsec = PAUSE_MS * 1000000L};
    for (int i = 0; i < TRIES; i++) {
        if (flock(file, kind | LOCK_NB) == 0 || (errno != EWOULDBLOCK && errno != EINTR)) return true;
        nanosleep(&pause, NULL);
    }
    return false;
}

exit_code lock_look(const char *folder, problems *list) {
    char *path = lock_path(folder);
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    exit_code code = file < 0 || try_lock(file, LOCK_SH) ? EXIT_OK : refuse(folder, file, list);
    if (file >= 0) close(file);
    free(path);
    return code;
}

/* The run that held the lock before may have removed the file between our open and our lock. */
static bool is_current(int file, const char *path) {
    struct stat ours, there;
    return fstat(file, &ours) == 0 && stat(path, &there) == 0 && ours.st_ino == there.st_ino &&
           ours.st_dev == there.st_dev;
}

static void sign(int file) {
    char host[65] = "", since[32];
    time_t now = time(NULL);
    gethostname(host, sizeof host - 1);
    strftime(since, sizeof since, "%Y-%m-%dT%H:%M:%SZ", gmtime(&now));
    if (ftruncate(file, 0) == 0) dprintf(file, "process %d on %s since %s\n", (int)getpid(), host, since);
}

exit_code lock_take(const char *folder, run_lock *out, problems *list) {
    exit_code code = EXIT_OK;
    *out = (run_lock){.path = lock_path(folder)};
    if (!out->path) return problem(list, EXIT_ENVIRONMENT, "%s: no memory to lock it", folder);
    int file = -1;
    while (code == EXIT_OK && file < 0) {
        file = open(out->path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        if (file < 0)
            code = problem(list, EXIT_RUN, "%s: cannot be written: %s", out->path, strerror(errno));
        else if (!try_lock(file, LOCK_EX))
            code = refuse(folder, file, list);
        else if (!is_current(file, out->path)) {
            close(file);
            file = -1;
        }
    }
    if (code == EXIT_OK) {
        sign(file);
        out->file = file;
        return EXIT_OK;
    }
    if (file >= 0) close(file);
    free(out->path);
    *out = (run_lock){0};
    return code;
}

void lock_release(run_lock *lock) {
    if (!lock->path) return;
    unlink(lock->path);
    close(lock->file);
    free(lock->path);
    *lock = (run_lock){0};
}
