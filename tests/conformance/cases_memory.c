/* Near and far memory, copies between them, and streams that wait for each other. */
#include <stdlib.h>
#include <string.h>

#include "conformance/cases.h"

enum { PARTS = 7, PART_FLOATS = 3001, SLOTS = 2, FLOATS = PARTS * PART_FLOATS };

typedef struct {
    ck_backend *backend;
    verdict *verdict;
    ck_stream *work, *copies;
    ck_event *arrived[SLOTS], *left[SLOTS], *home;
    float *far, *slot[SLOTS], *zeros[3]; /* zeros: moments and gradients */
    bool broken;
} two_streams;

static bool worked(two_streams *t, ck_status status, const char *what) {
    if (status != CK_OK && !t->broken)
        verdict_fail(t->verdict, "%s: %s: %s", ck_name(t->backend), what, ck_last_error(t->backend));
    t->broken |= status != CK_OK;
    return !t->broken;
}

static float *take(two_streams *t, bool far, int floats) {
    void *memory = NULL;
    worked(t, (far ? ck_alloc_far : ck_alloc)(t->backend, (size_t)floats * sizeof(float), "a test", &memory),
           "memory");
    return memory;
}

static two_streams two_streams_open(ck_backend *backend, verdict *c) {
    two_streams t = {.backend = backend, .verdict = c};
    worked(&t, ck_stream_create(backend, &t.work), "a stream");
    worked(&t, ck_stream_create(backend, &t.copies), "a stream");
    worked(&t, ck_event_create(backend, &t.home), "an event");
    t.far = take(&t, true, FLOATS);
    for (int i = 0; i < 3; i++) t.zeros[i] = take(&t, false, PART_FLOATS);
    for (int i = 0; i < SLOTS; i++) {
        t.slot[i] = take(&t, false, PART_FLOATS);
        worked(&t, ck_event_create(backend, &t.arrived[i]), "an event");
        worked(&t, ck_event_create(backend, &t.left[i]), "an event");
    }
    return t;
}

static void two_streams_close(two_streams *t) {
    ck_stream_destroy(t->work);
    ck_stream_destroy(t->copies);
    ck_event_destroy(t->home);
    ck_free(t->backend, t->far);
    for (int i = 0; i < 3; i++) ck_free(t->backend, t->zeros[i]);
    for (int i = 0; i < SLOTS; i++) {
        ck_free(t->backend, t->slot[i]);
        ck_event_destroy(t->arrived[i]);
        ck_event_destroy(t->left[i]);
    }
}

/* A part is halved, quartered, ...: AdamW without a gradient leaves its weight decay. */
static float kept(int part) {
    return 1.0f / (float)(2 << part);
}

static void halve(two_streams *t, int part) {
    const ck_range all = {.offset = 0, .count = PART_FLOATS, .weight_decay = 1};
    const ck_adamw_hyper hyper = {
        .learning_rate = 1.0f - kept(part), .beta1 = 0.9f, .beta2 = 0.99f, .epsilon = 1e-8f, .step = 1};
    worked(t,
           ck_adamw_ranges(t->work, t->slot[part % SLOTS], t->zeros[0], t->zeros[1], t->zeros[2], &all, 1,
                           &hyper),
           "AdamW");
}

/* One part comes to its slot, is changed there, and goes home; the next one comes meanwhile. */
static void fetch(two_streams *t, int part) {
    int s = part % SLOTS;
    worked(t, ck_copy(t->copies, t->slot[s], t->far + part * PART_FLOATS, PART_FLOATS * sizeof(float)),
           "a copy from far memory");
    worked(t, ck_event_record(t->copies, t->arrived[s]), "an event");
}

static void change(two_streams *t, int part) {
    int s = part % SLOTS;
    worked(t, ck_event_await(t->work, t->arrived[s]), "awaiting a copy");
    halve(t, part);
    worked(t, ck_event_record(t->work, t->left[s]), "an event");
    worked(t, ck_event_await(t->copies, t->left[s]), "awaiting a change");
    worked(t, ck_copy(t->copies, t->far + part * PART_FLOATS, t->slot[s], PART_FLOATS * sizeof(float)),
           "a copy to far memory");
}

static void parts_take_turns(ck_backend *backend, verdict *c) {
    two_streams t = two_streams_open(backend, c);
    float *host = malloc(FLOATS * sizeof *host);
    double *expected = malloc(FLOATS * sizeof *expected);
    uint64_t random = 11;
    if (!host || !expected) abort();
    for (int i = 0; i < FLOATS; i++)
        host[i] = (float)wave_draw(&random, 1), expected[i] = (double)host[i] * kept(i / PART_FLOATS);
    worked(&t, ck_upload(t.copies, t.far, host, FLOATS * sizeof *host), "an upload to far memory");
    fetch(&t, 0);
    for (int part = 0; part < PARTS && !t.broken; part++) {
        if (part + 1 < PARTS) fetch(&t, part + 1);
        change(&t, part);
    }
    worked(&t, ck_event_record(t.copies, t.home), "an event");
    worked(&t, ck_event_await(t.work, t.home), "awaiting the last copy");
    worked(&t, ck_download(t.work, host, t.far, FLOATS * sizeof *host), "a download from far memory");
    worked(&t, ck_wait(t.work), "ck_wait");
    if (!t.broken) verdict_near(c, "parts that took turns", host, expected, FLOATS, 1e-6);
    free(host);
    free(expected);
    two_streams_close(&t);
}

/* An event that was never recorded holds nobody up, and a copy of nothing is fine. */
static void nothing_to_wait_for(ck_backend *backend, verdict *c) {
    two_streams t = two_streams_open(backend, c);
    float got = 1;
    worked(&t, ck_event_await(t.work, t.home), "awaiting an event that was never recorded");
    worked(&t, ck_copy(t.work, t.slot[0], t.far, 0), "a copy of nothing");
    worked(&t, ck_download(t.work, &got, t.slot[0], sizeof got), "a download");
    worked(&t, ck_wait(t.work), "ck_wait");
    verdict_exact(c, "new memory, which holds zeros,", got == 0);
    two_streams_close(&t);
}

const conformance_case memory_cases[] = {
    {.group = "memory", .variant = {"parts take turns"}, .run_alone = parts_take_turns},
    {.group = "memory", .variant = {"nothing to wait for"}, .run_alone = nothing_to_wait_for},
    {0}};
