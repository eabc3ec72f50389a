/* launch.c - from one process to N of them.
 *
 *   this program --fork, exec--> mpirun --> N x this program
 *         ---- configuration --->           (its text, on the standard input of process 0)
 *         <------- stderr -------           (their messages, and mpirun's own in frames of dashes)
 *
 * What the processes say passes through as it comes. mpirun's frames are kept: of a process that a signal
 * ended they name it, and this program says it in its own words; otherwise they are only of use when nobody
 * else has said what was wrong. */
#include "command/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/stop_signals.h"

enum { MOST_FRAME_BYTES = 4096, LEAST_DASHES = 60, FIRST_SIGNAL_STATUS = 128 };

static const char *const MARK = "COHORT_LAUNCHED"; /* in the environment of the processes */

bool launch_was_here(void) {
    return getenv(MARK) != NULL;
}

/* All processes are on this machine: its memory is the way between them. The processes' own limits on what
 * they may copy from each other differ between containers, so nothing is copied behind the back of the shared
 * memory. */
static const char *const MPIRUN[] = {"mpirun",
                                     "--oversubscribe",
                                     "--allow-run-as-root",
                                     "--bind-to",
                                     "none",
                                     "--mca",
                                     "pml",
                                     "ob1",
                                     "--mca",
                                     "btl",
                                     "self,vader",
                                     "--mca",
                                     "btl_vader_single_copy_mechanism",
                                     "none",
                                     "-n"};
enum { N_MPIRUN = sizeof MPIRUN / sizeof *MPIRUN };

/* ---- Signals: the first asks the processes to stop, the second mpirun to end them ---- */

static volatile sig_atomic_t asked;  /* any of them came */
static volatile sig_atomic_t orders; /* those that are no warnings */
static volatile sig_atomic_t child;

/* mpirun hands SIGUSR1 on to every process, whereas SIGINT and SIGTERM make it kill them. */
static void on_signal(int number) {
    int before = errno;
    asked = 1;
    if (!stop_signal_is_warning(number)) orders = orders + 1;
    if (child > 0) kill((pid_t)child, orders < 2 ? SIGUSR1 : SIGTERM);
    errno = before;
}

/* ---- mpirun ---- */

/* In a group of its own, so that Ctrl-C comes to this program alone; it ends if this program does. */
static void become_mpirun(char **arguments, int configuration, int error_pipe, pid_t parent) {
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent || dup2(configuration, STDIN_FILENO) < 0 || dup2(error_pipe, STDERR_FILENO) < 0)
        _exit(127);
    execvp(arguments[0], arguments);
    _exit(127);
}

/* A file in memory, to be read from its start; -1 and errno if it cannot be made. */
static int file_of(const char *text, size_t bytes) {
    int file = memfd_create("configuration", MFD_CLOEXEC);
    for (size_t at = 0; file >= 0 && at < bytes;) {
        ssize_t n = write(file, text + at, bytes - at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            close(file);
            return -1;
        }
        at += (size_t)n;
    }
    if (file >= 0) lseek(file, 0, SEEK_SET);
    return file;
}

/* mpirun ... -n N PROGRAM the same arguments; freed by the caller, the strings are borrowed. */
static char **make_arguments(int argc, char **argv, char *count, char *program) {
    char **arguments = calloc((size_t)(N_MPIRUN + argc) + 2, sizeof *arguments);
    int n = 0;
    if (!arguments) return NULL;
    for (; n < N_MPIRUN; n++) arguments[n] = (char *)MPIRUN[n];
    arguments[n++] = count;
    arguments[n++] = program;
    for (int i = 1; i < argc; i++) arguments[n++] = argv[i];
    return arguments;
}

/* The processes write to a pipe, and this program passes it on to a terminal: their progress may be a bar. */
static void tell_terminal(void) {
    struct winsize size;
    char columns[16];
    if (!isatty(STDERR_FILENO)) return;
    snprintf(columns, sizeof columns, "%d", ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0);
    setenv("COHORT_TERMINAL", columns, 1);
}

static pid_t start(int argc, char **argv, int processes, int configuration, int *error_pipe) {
    char count[16], program[4096];
    int ends[2];
    pid_t parent = getpid();
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    snprintf(count, sizeof count, "%d", processes);
    program[length > 0 ? length : 0] = '\0';
    char **arguments = make_arguments(argc, argv, count, program);
    if (length <= 0 || !arguments || pipe2(ends, O_CLOEXEC) != 0) {
        free(arguments);
        return -1;
    }
    tell_terminal();
    setenv(MARK, "1", 1);
    pid_t pid = fork();
    if (pid == 0) become_mpirun(arguments, configuration, ends[1], parent);
    free(arguments);
    close(ends[1]);
    *error_pipe = ends[0];
    return pid;
}

/* ---- What comes back ---- */

typedef struct {
    char line[1024]; /* the beginning of one that has not ended */
    size_t length;
    bool passes;     /* the beginning has been passed on already */
    bool framed;     /* within mpirun's dashes */
    bool said;       /* a process has said something */
    char last[1024]; /* what it was: several processes may say the same */
    char frames[MOST_FRAME_BYTES];
    size_t frames_length;
} relay;

static bool starts_with(const relay *r, const char *text) {
    return strncmp(r->line, text, strlen(text)) == 0;
}

static bool is_rule(const relay *r) {
    size_t dashes = strspn(r->line, "-");
    return dashes >= LEAST_DASHES && r->line[dashes] == '\n';
}

static void write_all(const char *text, size_t bytes) {
    while (bytes > 0) {
        ssize_t n = write(STDERR_FILENO, text, bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return;
        text += n;
        bytes -= (size_t)n;
    }
}

static void keep_frame(relay *r) {
    size_t room = sizeof r->frames - 1 - r->frames_length, n = r->length < room ? r->length : room;
    memcpy(r->frames + r->frames_length, r->line, n);
    r->frames_length += n;
    r->frames[r->frames_length] = '\0';
}

static void end_line(relay *r) {
    r->line[r->length] = '\0';
    if (!r->passes && is_rule(r))
        r->framed = !r->framed;
    else if (!r->passes && starts_with(r, "mpirun: Forwarding signal"))
        r->passes = false; /* it was asked to */
    else if (r->framed && !r->passes)
        keep_frame(r);
    else if (r->passes || !starts_with(r, "cohort: ") || strcmp(r->line, r->last) != 0) {
        write_all(r->line, r->length);
        memcpy(r->last, r->line, r->length + 1);
        r->said = true;
    }
    r->length = 0;
    r->passes = false;
}

/* Whole lines are looked at; a line that does not end soon (a progress bar) passes as it comes. */
static void relay_bytes(relay *r, const char *bytes, size_t n) {
    for (size_t i = 0; i < n; i++) {
        r->line[r->length++] = bytes[i];
        if (bytes[i] == '\n' || r->length == sizeof r->line - 1) end_line(r);
    }
    bool may_be_mpirun = r->framed || r->line[0] == '-' || starts_with(r, "m");
    if (r->length > 0 && !may_be_mpirun) {
        write_all(r->line, r->length);
        r->length = 0;
        r->passes = true;
    }
}

static void relay_all(relay *r, int from) {
    char bytes[4096];
    for (;;) {
        ssize_t n = read(from, bytes, sizeof bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        relay_bytes(r, bytes, (size_t)n);
    }
    if (r->length > 0) end_line(r);
}

/* ---- How it ended ---- */

/* "... process rank 1 with PID 0 on node vm exited on signal 9 (Killed)." False: no process died of a signal.
 */
static bool find_dead(const char *frames, int *process, int *number) {
    const char *at = strstr(frames, "process rank "), *on = at ? strstr(at, "exited on signal ") : NULL;
    return on && sscanf(at, "process rank %d", process) == 1 &&
           sscanf(on, "exited on signal %d", number) == 1;
}

static exit_code report_dead(int process, int processes, int number, problems *list) {
    if (asked)
        return problem(list, EXIT_RUN,
                       "interrupted: the processes were ended before they had saved; what the last "
                       "checkpoint has is safe, "
                       "the same command with --resume goes on from there");
    return problem(list, EXIT_RUN,
                   "process %d of %d was ended by signal %d (%s), and the others with it; what the last "
                   "checkpoint has is safe, the same "
                   "command with --resume goes on from there",
                   process, processes, number, strsignal(number));
}

/* mpirun's exit status is that of the first process that failed, 128 + the signal that ended one, or its own.
 */
static exit_code judge(const relay *r, int status, int processes, problems *list) {
    int process = 0, number = 0, code = WEXITSTATUS(status);
    if (WIFSIGNALED(status))
        return problem(list, EXIT_RUN,
                       "mpirun was ended by signal %d (%s); the same command with --resume goes on from the "
                       "last checkpoint",
                       WTERMSIG(status), strsignal(WTERMSIG(status)));
    if (code == EXIT_OK) return EXIT_OK;
    if (code == 127 && !r->said && r->frames_length == 0)
        return problem(list, EXIT_ENVIRONMENT,
                       "mpirun cannot be started; --processes needs Open MPI (Debian: openmpi-bin)");
    if (find_dead(r->frames, &process, &number)) return report_dead(process, processes, number, list);
    if (r->said && exit_code_is_known(code)) return (exit_code)code;
    bool ran = code == EXIT_RUN || (code > FIRST_SIGNAL_STATUS && code <= FIRST_SIGNAL_STATUS + SIGRTMAX);
    if (ran || r->frames_length > 0)
        return problem(list, ran ? EXIT_RUN : EXIT_ENVIRONMENT, "mpirun failed (exit status %d)%s%s", code,
                       r->frames_length > 0 ? ":\n" : "", r->frames);
    return problem(list, EXIT_ENVIRONMENT,
                   "mpirun failed (exit status %d); --processes needs Open MPI's (Debian: openmpi-bin), and "
                   "`mpirun --version` says whose it is",
                   code);
}

exit_code launch_processes(int argc, char **argv, int processes, const char *configuration, size_t bytes,
                           problems *list) {
    stop_signals_before before;
    relay r = {.length = 0};
    int from = -1, status = 0, file = file_of(configuration, bytes);
    asked = orders = 0;
    stop_signals_catch(on_signal, STOP_ALL_CAUGHT, &before);
    pid_t pid = file < 0 ? -1 : start(argc, argv, processes, file, &from);
    int failure = errno;
    if (file >= 0) close(file);
    if (pid < 0) {
        stop_signals_release(&before);
        return problem(list, EXIT_ENVIRONMENT, "mpirun cannot be started: %s", strerror(failure));
    }
    child = (sig_atomic_t)pid;
    relay_all(&r, from);
    close(from);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
    child = 0;
    stop_signals_release(&before);
    return judge(&r, status, processes, list);
}
