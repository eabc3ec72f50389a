#include "measure/peers.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "measure/folder.h"
#include "measure/outputs.h"
#include "measure/peers_files.h"
#include "measure/process.h"
#include "measure/python.h"
#include "rig/view.h"
#include "support/output_folder.h"

enum { MOST_FORMS = RESULT_MOST_TIMES - 3, LINE_BYTES = 1024 };

typedef struct {
    bench_peers *all;
    int index;
    char label[96], reason[160]; /* why it has no time */
    verdict right;
    int subject; /* -1: none */
} form;

struct bench_peers {
    pid_t process; /* 0: it has ended */
    int threads;   /* of the processor; 0: it uses a GPU */
    FILE *to, *from;
    char folder[FOLDER_PATH_BYTES], line[LINE_BYTES];
    int n_forms;
    form forms[MOST_FORMS];
    char trouble[192]; /* why a point has no forms at all */
};

/* ---- The process */

static bool ask(bench_peers *p, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Sends a line and reads the answer into p->line; false: the process is gone. */
static bool ask(bench_peers *p, const char *format, ...) {
    va_list arguments;
    p->line[0] = '\0';
    if (!p->process) return false;
    va_start(arguments, format);
    vfprintf(p->to, format, arguments);
    va_end(arguments);
    bool answered = fflush(p->to) == 0 && fgets(p->line, sizeof p->line, p->from);
    p->line[strcspn(p->line, "\n")] = '\0';
    if (!answered) snprintf(p->line, sizeof p->line, "failed the process of the peers has ended");
    return answered;
}

static exit_code start(bench_peers *p, const char *const *arguments, const char *const *added,
                       problems *list) {
    int to[2], from[2];
    char **environment = program_environment(added);
    posix_spawn_file_actions_t actions;
    if (!environment || pipe2(to, O_CLOEXEC) || pipe2(from, O_CLOEXEC) ||
        posix_spawn_file_actions_init(&actions))
        return problem(list, EXIT_ENVIRONMENT, "peers: %s", strerror(errno));
    posix_spawn_file_actions_adddup2(&actions, to[0], 0);
    posix_spawn_file_actions_adddup2(&actions, from[1], 1);
    int error =
        posix_spawnp(&p->process, arguments[0], &actions, NULL, (char *const *)arguments, environment);
    posix_spawn_file_actions_destroy(&actions);
    free(environment);
    close(to[0]);
    close(from[1]);
    p->to = fdopen(to[1], "w");
    p->from = fdopen(from[0], "r");
    if (error) p->process = 0;
    return error || !p->to || !p->from
               ? problem(list, EXIT_ENVIRONMENT, "%s: cannot be started: %s", arguments[0], strerror(error))
               : EXIT_OK;
}

static exit_code start_python(bench_peers *p, const char *python, const bench_options *o, const context *c,
                              problems *list) {
    char script[FOLDER_PATH_BYTES], threads[16], openmp[40], mkl[40];
    const char *device = strcmp(c->backend, "cpu") == 0 ? "cpu" : "cuda",
               *arguments[8 + 2 * BENCH_MOST_PEERS];
    int n = 0;
    p->threads = strcmp(device, "cpu") == 0 ? c->threads : 0;
    snprintf(script, sizeof script, "%s/kernels.py", COHORT_BENCH_PEERS);
    snprintf(threads, sizeof threads, "%d", c->threads);
    snprintf(openmp, sizeof openmp, "OMP_NUM_THREADS=%d", c->threads);
    snprintf(mkl, sizeof mkl, "MKL_NUM_THREADS=%d", c->threads);
    const char *environment[] = {openmp, mkl, "PYTHONDONTWRITEBYTECODE=1", NULL};
    arguments[n++] = python;
    arguments[n++] = script;
    arguments[n++] = "--device";
    arguments[n++] = device;
    arguments[n++] = "--threads";
    arguments[n++] = threads;
    for (int i = 0; i < o->n_peers; i++) {
        arguments[n++] = "--peer";
        arguments[n++] = o->peer[i];
    }
    arguments[n] = NULL;
    signal(SIGPIPE, SIG_IGN); /* a process that has ended is noticed by its missing answer */
    return start(p, arguments, environment, list);
}

exit_code peers_open(bench_peers **out, const bench_options *options, const context *c, problems *list) {
    char scratch[FOLDER_PATH_BYTES + 16];
    const char *python = NULL;
    bench_peers *p = calloc(1, sizeof *p);
    *out = NULL;
    if (!p) return problem(list, EXIT_ENVIRONMENT, "out of memory");
    exit_code code = folder_make(NULL, p->folder, list);
    snprintf(scratch, sizeof scratch, "%s/python", p->folder);
    THEN(code, python_find(options->python, scratch, &python, list));
    if (code == EXIT_OK && python) code = start_python(p, python, options, c, list);
    if (code == EXIT_OK && python && (!ask(p, "hello\n") || strcmp(p->line, "ready") != 0))
        code = problem(list, EXIT_INPUT, "peers: %s",
                       strncmp(p->line, "failed ", 7) == 0 ? p->line + 7 : p->line);
    if (code == EXIT_OK && !python)
        fprintf(stderr, "cohort-bench kernels: without --peers: %s", PYTHON_ADVICE);
    if (code == EXIT_OK && python)
        *out = p;
    else
        peers_close(p);
    return code;
}

void peers_close(bench_peers *p) {
    if (!p) return;
    if (p->to) fclose(p->to); /* the end of its input is the end of its work */
    if (p->from) fclose(p->from);
    if (p->process) waitpid(p->process, NULL, 0);
    if (p->folder[0]) folder_remove(p->folder);
    free(p);
}

/* ---- A point */

static bool work(void *who, int64_t n, sample *out) {
    form *f = who;
    long long preemptions = 0;
    bool ok = ask(f->all, "time %d %lld\n", f->index, (long long)n) &&
              sscanf(f->all->line, "time %lf %lf %lf %lld", &out->seconds, &out->used.cpu_seconds,
                     &out->used.queued_seconds, &preemptions) == 4;
    out->used.preemptions = preemptions;
    if (!ok) snprintf(f->reason, sizeof f->reason, "%.150s", f->all->line);
    return ok;
}

/* "ready LABEL" or "no LABEL: reason". */
static void read_form(bench_peers *p, form *f, int index) {
    *f = (form){.all = p, .index = index, .subject = -1};
    p->line[0] = '\0';
    if (!fgets(p->line, sizeof p->line, p->from))
        snprintf(p->line, sizeof p->line, "no answer: the process of the peers has ended");
    p->line[strcspn(p->line, "\n")] = '\0';
    bool ready = strncmp(p->line, "ready ", 6) == 0;
    char *label = strchr(p->line, ' '), *reason = ready ? NULL : strstr(p->line, ": ");
    if (reason) {
        snprintf(f->reason, sizeof f->reason, "%.150s", reason + 2);
        *reason = '\0';
    }
    snprintf(f->label, sizeof f->label, "%.90s", label ? label + 1 : p->line);
}

/* Against the float64 reference; where that needs what only Cohort's own recording shows, against Cohort's
 * verified results. */
static void verify(form *f, rig *g, const outputs *known) {
    problems *list = problems_create();
    char folder[FOLDER_PATH_BYTES];
    snprintf(folder, sizeof folder, "%s", f->all->folder);
    bool done = ask(f->all, "check %d %s\n", f->index, folder) && strcmp(f->all->line, "done") == 0;
    if (!done)
        snprintf(f->reason, sizeof f->reason, "%.150s", f->all->line);
    else if (peers_read(g, folder, list) != EXIT_OK)
        snprintf(f->reason, sizeof f->reason, "%.150s", problems_message(list, 0));
    else if (rig_has_inner(g))
        outputs_compare(g, &f->right, known);
    else
        rig_judge(g, &f->right, false);
    problems_destroy(list);
}

static int load(bench_peers *p, rig *g) {
    problems *list = problems_create();
    int n = 0;
    p->trouble[0] = '\0';
    if (g->shapes[0].mlp != CK_MLP_GELU)
        snprintf(p->trouble, sizeof p->trouble, "peers: no peer has SwiGLU, only GELU");
    else if (peers_write(g, p->folder, list) != EXIT_OK)
        snprintf(p->trouble, sizeof p->trouble, "peers: %.150s", problems_message(list, 0));
    else if (!ask(p, "load %s\n", p->folder) || sscanf(p->line, "%d", &n) != 1)
        snprintf(p->trouble, sizeof p->trouble, "peers: %.150s", p->line);
    problems_destroy(list);
    if (n > MOST_FORMS) n = MOST_FORMS;
    for (int i = 0; i < n; i++) read_form(p, &p->forms[i], i);
    return n;
}

int peers_begin(bench_peers *p, rig *g, const result *r, subject *subjects, int room) {
    int n = 0;
    p->n_forms = load(p, g);
    outputs known = outputs_take(g);
    for (int i = 0; i < p->n_forms; i++) {
        form *f = &p->forms[i];
        f->right.tolerance = r->right.tolerance;
        if (f->reason[0]) continue;
        verify(f, g, &known);
        if (!verdict_passed(&f->right) || n == room) continue;
        f->subject = n;
        subjects[n++] = (subject){.who = f, .work = work, .threads = p->threads};
    }
    outputs_free(&known);
    return n;
}

void peers_end(bench_peers *p, result *r, subject *subjects) {
    for (int i = 0; i < p->n_forms && r->n_times < RESULT_MOST_TIMES; i++) {
        form *f = &p->forms[i];
        measured *m = &r->times[r->n_times++];
        *m = (measured){.peer = true, .right = f->right};
        snprintf(m->label, sizeof m->label, "%s", f->label);
        snprintf(m->reason, sizeof m->reason, "%s", f->reason);
        if (f->subject >= 0) m->t = subjects[f->subject].t;
    }
    if (p->trouble[0]) snprintf(r->note, sizeof r->note, "%s", p->trouble);
    p->n_forms = 0;
}
