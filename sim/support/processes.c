#include "support/processes.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

exit_code processes_problem(ck_collective *c, ck_status status, problems *list) {
    if (status == CK_OK) return EXIT_OK;
    return problem(list, EXIT_RUN, "process %d of %d cannot reach the others: %s; go on with --resume",
                   ck_process(c), ck_processes(c), ck_collective_error(c));
}

/* ---- Agreeing ---- */

/* All messages one after the other, each with its zero byte. */
static char *join_messages(const problems *list, size_t *bytes) {
    *bytes = 0;
    for (int i = 0; i < problems_count(list); i++) *bytes += strlen(problems_message(list, i)) + 1;
    char *text = malloc(*bytes + 1), *at = text;
    for (int i = 0; text && i < problems_count(list); i++) at = stpcpy(at, problems_message(list, i)) + 1;
    if (!text) *bytes = 0;
    return text;
}

static bool knows(const problems *list, const char *message) {
    for (int i = 0; i < problems_count(list); i++)
        if (strcmp(problems_message(list, i), message) == 0) return true;
    return false;
}

static void take_messages(const char *text, size_t bytes, int process, int processes, exit_code code,
                          problems *list) {
    for (size_t at = 0; at < bytes; at += strlen(text + at) + 1)
        if (!knows(list, text + at))
            problem(list, code, "process %d of %d: %s", process, processes, text + at);
}

/* From process `from` to process 0. */
static ck_status bring_messages(ck_collective *c, int from, exit_code code, problems *list) {
    size_t bytes = 0;
    char *text = NULL;
    problems_condense(list);
    if (ck_process(c) == from) text = join_messages(list, &bytes);
    ck_status status = ck_collective_move(c, from, 0, &bytes, sizeof bytes);
    if (status == CK_OK && ck_process(c) == 0) text = calloc(bytes + 1, 1);
    if (status == CK_OK && !text) abort(); /* as problems.c: no memory for a message */
    THEN(status, ck_collective_move(c, from, 0, text, bytes));
    if (status == CK_OK && ck_process(c) == 0) take_messages(text, bytes, from, ck_processes(c), code, list);
    free(text);
    return status;
}

exit_code processes_agree(ck_collective *c, exit_code code, problems *list) {
    int32_t own = (int32_t)code, *all;
    if (ck_processes(c) == 1 || ck_collective_broken(c)) return code;
    all = calloc((size_t)ck_processes(c), sizeof *all);
    if (!all) abort();
    ck_status status = ck_collective_exchange(c, &own, sizeof own, all);
    int failed = 0;
    while (status == CK_OK && failed < ck_processes(c) && all[failed] == EXIT_OK) failed++;
    exit_code agreed = failed < ck_processes(c) ? (exit_code)all[failed] : EXIT_OK;
    free(all);
    if (status == CK_OK && agreed != EXIT_OK && failed > 0 && (ck_process(c) == 0 || ck_process(c) == failed))
        status = bring_messages(c, failed, agreed, list);
    return status == CK_OK ? agreed : processes_problem(c, status, list);
}

exit_code processes_share_text(ck_collective *c, char **text, size_t *bytes, problems *list) {
    if (ck_processes(c) == 1) return EXIT_OK;
    ck_status status = ck_collective_broadcast(c, bytes, sizeof *bytes);
    if (status == CK_OK && !*text) *text = calloc(*bytes + 1, 1);
    if (!*text) abort(); /* as problems.c: the others would wait for this process */
    THEN(status, ck_collective_broadcast(c, *text, *bytes));
    return processes_problem(c, status, list);
}

/* ---- Rows ---- */

static size_t whole_row(const process_rows *tables, int n) {
    size_t bytes = 0;
    for (int i = 0; i < n; i++) bytes += tables[i].row_bytes;
    return bytes;
}

static unsigned char *row_at(const process_rows *table, int row) {
    return (unsigned char *)table->values + (size_t)row * table->stride;
}

static unsigned char *pack_row(const process_rows *tables, int n, int row, unsigned char *to) {
    for (int i = 0; i < n; to += tables[i++].row_bytes)
        memcpy(to, row_at(&tables[i], row), tables[i].row_bytes);
    return to;
}

static const unsigned char *unpack_row(const process_rows *tables, int n, int row,
                                       const unsigned char *from) {
    for (int i = 0; i < n; from += tables[i++].row_bytes)
        memcpy(row_at(&tables[i], row), from, tables[i].row_bytes);
    return from;
}

typedef struct {
    size_t *bytes;            /* [processes] of the rows of each */
    unsigned char *own, *all; /* packed; all: of process 0 only */
} packed_rows;

static bool allocate_rows(const ck_collective *c, int n_rows, const int *owner, size_t row, packed_rows *p) {
    *p = (packed_rows){.bytes = calloc((size_t)ck_processes(c), sizeof *p->bytes)};
    for (int i = 0; p->bytes && i < n_rows; i++) p->bytes[owner[i]] += row;
    p->own = p->bytes ? malloc(p->bytes[ck_process(c)] + 1) : NULL;
    p->all = ck_process(c) == 0 ? malloc((size_t)n_rows * row + 1) : NULL;
    return p->bytes && p->own && (p->all || ck_process(c) != 0);
}

static void unpack(const ck_collective *c, int n_rows, const int *owner, const process_rows *tables, int n,
                   const packed_rows *p) {
    const unsigned char *from = p->all;
    for (int process = 0; process < ck_processes(c); process++)
        for (int i = 0; i < n_rows; i++)
            if (owner[i] == process) from = unpack_row(tables, n, i, from);
}

exit_code processes_gather(ck_collective *c, int n_rows, const int *owner, const process_rows *tables,
                           int n_tables, problems *list) {
    packed_rows p;
    if (ck_processes(c) == 1) return EXIT_OK;
    exit_code code = EXIT_OK;
    if (!allocate_rows(c, n_rows, owner, whole_row(tables, n_tables), &p))
        code = problem(list, EXIT_ENVIRONMENT, "out of memory for the numbers of all processes");
    code = processes_agree(c, code, list);
    if (code == EXIT_OK) {
        unsigned char *to = p.own;
        for (int i = 0; i < n_rows; i++)
            if (owner[i] == ck_process(c)) to = pack_row(tables, n_tables, i, to);
        code = processes_problem(c, ck_collective_gather(c, p.own, p.bytes, p.all), list);
        if (code == EXIT_OK && ck_process(c) == 0) unpack(c, n_rows, owner, tables, n_tables, &p);
    }
    free(p.bytes);
    free(p.own);
    free(p.all);
    return code;
}
