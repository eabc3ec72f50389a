/* writer.c - trace.h5 is written by one thread, off the critical path of training.
 *
 *   trace_append: caller --copy--> slots[QUEUE_ROWS] --writer thread--> trace_file_append --flush--> trace.h5
 *
 * The caller waits only while all slots are full. After a failure the writer drops what comes, and never
 * calls HDF5 again. */
#include "result/writer.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support/durable.h"

enum { QUEUE_ROWS = 2 }; /* one is filled while the other is written */

typedef struct {
    int round;
    uint8_t *bytes;                  /* all tables' values of one row, owned */
    const void *cells[METRIC_COUNT]; /* into bytes, or NULL */
} slot;

struct trace {
    trace_file file; /* the writer thread's */
    char *path;
    pthread_t thread;
    pthread_mutex_t lock; /* of everything below */
    pthread_cond_t changed;
    slot slots[QUEUE_ROWS];
    int first, count;  /* slots in use: first, first + 1, ... */
    int last_appended; /* round */
    bool sync_wanted, closing;
    bool failed, reported;
    int complete_round; /* last round that is whole in the file */
    h5_error error;     /* why it failed */
};

static size_t aligned(size_t bytes) {
    return (bytes + 7) & ~(size_t)7;
}

static size_t slot_bytes(const metric_shape *shape) {
    size_t total = 0;
    for (int id = 0; id < METRIC_COUNT; id++)
        if (metric_recorded(id, shape)) total += aligned(metric_bytes(id, shape));
    return total;
}

static void fill_slot(slot *s, const metric_shape *shape, const metric_row *row) {
    uint8_t *next = s->bytes;
    for (metric_id id = 0; id < METRIC_COUNT; id++) {
        bool measured = row->evaluated || metrics[id].when == METRIC_EACH_ROUND;
        s->cells[id] = NULL;
        if (!measured || !row->values[id] || !metric_recorded(id, shape)) continue;
        size_t bytes = metric_bytes(id, shape);
        s->cells[id] = memcpy(next, row->values[id], bytes);
        next += aligned(bytes);
    }
    s->round = metric_round(row);
}

/* ---- the writer thread ---- */

typedef enum { WORK_ROW, WORK_SYNC, WORK_CLOSE } work;

/* Called with the lock held, returns with it held. */
static work wait_for_work(trace *t) {
    while (t->count == 0 && !t->sync_wanted && !t->closing) pthread_cond_wait(&t->changed, &t->lock);
    return t->count > 0 ? WORK_ROW : t->sync_wanted ? WORK_SYNC : WORK_CLOSE;
}

static int do_work(trace *t, work w, h5_error *error) {
    const slot *s = &t->slots[t->first]; /* the caller fills other slots meanwhile */
    h5_enter();
    int status = w == WORK_ROW    ? trace_file_append(&t->file, s->round, s->cells, error)
                 : w == WORK_SYNC ? trace_file_sync(&t->file, error)
                                  : trace_file_close(&t->file, error);
    h5_leave();
    return status;
}

static void finish_work(trace *t, work w, bool done, const h5_error *error) {
    if (w == WORK_ROW && done) t->complete_round = t->slots[t->first].round;
    if (w == WORK_ROW) {
        t->first = (t->first + 1) % QUEUE_ROWS;
        t->count--;
    } else {
        t->sync_wanted = false;
    }
    if (!done && !t->failed) {
        t->failed = true;
        t->error = *error;
    }
    pthread_cond_broadcast(&t->changed);
}

static void *write_rows(void *argument) {
    trace *t = argument;
    work w;
    pthread_mutex_lock(&t->lock);
    do {
        w = wait_for_work(t);
        bool done = false;
        h5_error error = {0};
        if (!t->failed) {
            pthread_mutex_unlock(&t->lock);
            done = do_work(t, w, &error) == 0;
            pthread_mutex_lock(&t->lock);
        }
        finish_work(t, w, done, &error);
    } while (w != WORK_CLOSE);
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

/* ---- the caller's side ---- */

/* Called with the lock held. One failure is one message, whoever asks first. */
static exit_code report(trace *t, problems *list) {
    if (!t->failed) return EXIT_OK;
    if (t->reported) return EXIT_RUN;
    t->reported = true;
    return problem(
        list, EXIT_RUN,
        "%s: %s; the rounds up to %d are whole in it; make room or repair the disk, then go on with --resume",
        t->path, t->error.text, t->complete_round);
}

static void destroy(trace *t) {
    if (!t) return;
    for (int i = 0; i < QUEUE_ROWS; i++) free(t->slots[i].bytes);
    free(t->path);
    free(t);
}

/* Signals are for the main thread, which finishes its step and writes. */
static int start_thread(trace *t) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int status = pthread_create(&t->thread, NULL, write_rows, t);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return status;
}

/* Touched at once, so that the run's memory does not grow with its first evaluation. */
static int allocate_slots(trace *t, size_t bytes) {
    for (int i = 0; i < QUEUE_ROWS; i++) {
        if (!(t->slots[i].bytes = malloc(bytes))) return -1;
        memset(t->slots[i].bytes, 0, bytes);
    }
    return 0;
}

exit_code trace_start(const trace_file *file, const char *path, trace **out, problems *list) {
    trace *t = calloc(1, sizeof *t);
    if (!t) return problem(list, EXIT_ENVIRONMENT, "%s: not enough memory for its writer", path);
    t->file = *file;
    t->last_appended = t->complete_round = file->last_round;
    t->path = strdup(path);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->changed, NULL);
    size_t bytes = slot_bytes(&file->shape);
    if (!t->path || allocate_slots(t, bytes) || start_thread(t)) {
        destroy(t);
        return problem(list, EXIT_ENVIRONMENT,
                       "%s: no memory or no thread for its writer (%zu bytes a round)", path, bytes);
    }
    *out = t;
    return EXIT_OK;
}

exit_code trace_append(trace *t, const metric_row *row, problems *list) {
    pthread_mutex_lock(&t->lock);
    while (t->count == QUEUE_ROWS && !t->failed) pthread_cond_wait(&t->changed, &t->lock);
    exit_code code = report(t, list);
    if (code == EXIT_OK && metric_round(row) <= t->last_appended)
        code = problem(list, EXIT_RUN, "%s: round %d after round %d; rounds must increase", t->path,
                       metric_round(row), t->last_appended);
    if (code == EXIT_OK) {
        fill_slot(&t->slots[(t->first + t->count) % QUEUE_ROWS], &t->file.shape, row);
        t->count++;
        t->last_appended = metric_round(row);
        pthread_cond_broadcast(&t->changed);
    }
    pthread_mutex_unlock(&t->lock);
    return code;
}

exit_code trace_flush(trace *t, problems *list) {
    pthread_mutex_lock(&t->lock);
    t->sync_wanted = true;
    pthread_cond_broadcast(&t->changed);
    while (t->sync_wanted) pthread_cond_wait(&t->changed, &t->lock);
    exit_code code = report(t, list);
    pthread_mutex_unlock(&t->lock);
    return code;
}

exit_code trace_close(trace *t, problems *list) {
    if (!t) return EXIT_OK;
    pthread_mutex_lock(&t->lock);
    t->closing = true;
    pthread_cond_broadcast(&t->changed);
    pthread_mutex_unlock(&t->lock);
    pthread_join(t->thread, NULL);
    exit_code code = report(t, list);
    pthread_cond_destroy(&t->changed);
    pthread_mutex_destroy(&t->lock);
    destroy(t);
    return code;
}

/* ---- creation ---- */

exit_code trace_check_header(const char *path, const trace_header *header, problems *list) {
    const trace_population *p = header->populations;
    if (header->n_populations < 1 || header->n_devices < 1 || header->n_layers < 1 || header->max_experts < 1)
        return problem(list, EXIT_RUN, "%s: a trace needs at least one population, device, layer and expert",
                       path);
    for (int i = 0; i < header->n_populations; i++)
        if (strlen(p[i].name) >= TRACE_NAME_BYTES || strlen(p[i].method) >= TRACE_NAME_BYTES)
            return problem(list, EXIT_INPUT, "%s: the population name %.32s... is longer than %d bytes", path,
                           p[i].name, TRACE_NAME_BYTES - 1);
    return EXIT_OK;
}

exit_code trace_create(const char *path, const trace_header *header, trace **out, problems *list) {
    *out = NULL;
    exit_code code = trace_check_header(path, header, list);
    if (code != EXIT_OK) return code;
    char *temporary = durable_temporary(path);
    if (!temporary) return problem(list, EXIT_ENVIRONMENT, "%s: not enough memory for its writer", path);
    unlink(temporary);
    trace_file file;
    h5_error error = {0};
    h5_enter();
    int status = trace_file_create(&file, temporary, header, header->created_utc, &error);
    if (!status) status = trace_file_publish(&file, temporary, path, &error);
    h5_leave();
    if (status) unlink(temporary);
    free(temporary);
    if (status)
        return problem(list, EXIT_RUN, "%s: %s; make room or repair the disk, then try again with --resume",
                       path, error.text);
    return trace_start(&file, path, out, list);
}
