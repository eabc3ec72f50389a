/* trace_fixture.c - builds the made-up run and reads traces back. */
#include "unit/trace_fixture.h"

#include <criterion/criterion.h>
#include <ftw.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "result/h5.h"

enum { MOST_KEPT = 4096, MOST_FOLDERS = 64 };
static void *kept[MOST_KEPT];
static problems *lists[MOST_FOLDERS];
static char *folders[MOST_FOLDERS];
static int n_kept, n_lists, n_folders;
static pid_t owner;

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *at) {
    (void)status, (void)type, (void)at;
    return remove(path);
}

/* Children that leave by exit() must not take the folders of the test with them. */
static void clean_up(void) {
    for (int i = 0; i < n_folders && getpid() == owner; i++)
        nftw(folders[i], remove_entry, 8, FTW_DEPTH | FTW_PHYS);
    for (int i = 0; i < n_lists; i++) problems_destroy(lists[i]);
    for (int i = 0; i < n_kept; i++) free(kept[i]);
}

void *fixture_keep(void *memory) {
    cr_assert_lt(n_kept, MOST_KEPT);
    if (n_kept == 0) atexit(clean_up);
    return kept[n_kept++] = memory;
}

void *fixture_array(int64_t n, size_t bytes) {
    void *values = calloc((size_t)n + 1, bytes);
    cr_assert_not_null(values);
    return fixture_keep(values);
}

problems *fixture_problems(void) {
    cr_assert_lt(n_lists, MOST_FOLDERS);
    fixture_keep(NULL);
    return lists[n_lists++] = problems_create();
}

static void make_populations(fixture *f, int devices) {
    f->populations[0] = (trace_population){.name = "comigs-1g1s",
                                           .method = "comigs",
                                           .seed = 42,
                                           .devices = devices / 2,
                                           .generalists = 1,
                                           .specialists = 1,
                                           .rank = 8,
                                           .top_k = 2,
                                           .tokens_per_device = 40000,
                                           .split = "natural",
                                           .evaluation = "in_distribution",
                                           .routed = true};
    f->populations[1] = (trace_population){.name = "local, poor",
                                           .method = "local",
                                           .seed = UINT64_MAX,
                                           .devices = devices - devices / 2,
                                           .generalists = 2,
                                           .rank = 4,
                                           .top_k = 2,
                                           .tokens_per_device = 15000,
                                           .split = "natural",
                                           .evaluation = "out_of_distribution",
                                           .first_source = 1};
}

static void make_devices(fixture *f, int devices) {
    f->devices = fixture_array(devices, sizeof *f->devices);
    f->mixtures = fixture_array(3 * (int64_t)devices, sizeof *f->mixtures);
    for (int i = 0; i < devices; i++) {
        int population = i >= devices / 2;
        f->devices[i] = (trace_device){.population = population,
                                       .index = population ? i - devices / 2 : i,
                                       .source = i % 3,
                                       .experts = 2,
                                       .generalists = population ? 2 : 1,
                                       .specialists = population ? 0 : 1,
                                       .rank = population ? 4 : 8,
                                       .train_tokens = 1000 + i,
                                       .valid_tokens = 100 + i,
                                       .test_tokens = 200 + i,
                                       .parameters_shared = population ? 0 : 4096,
                                       .parameters_private = 8192,
                                       .entropy = i == 0 ? NAN : 1.25 * i};
        f->mixtures[3 * i + i % 3] = 900;
        f->mixtures[3 * i + (i + 1) % 3] = 100 + i;
    }
}

void fixture_create(fixture *f, int devices, int windows) {
    *f = (fixture){0};
    make_populations(f, devices);
    make_devices(f, devices);
    for (int i = 0; i < windows; i++) f->windows_of[i] = i % devices;
    static const char *const source_names[] = {"german", "french", "italian", "topic, 3"};
    f->header = (trace_header){.git_revision = "0123abc",
                               .config_yaml = "seed: 42\n",
                               .base = "gpt2, 4 layers",
                               .backend = "cpu",
                               .hardware = "a machine",
                               .created_utc = "2024-01-02T03:04:05Z",
                               .seed = 42,
                               .n_populations = 2,
                               .n_devices = devices,
                               .n_layers = FIXTURE_LAYERS,
                               .max_experts = FIXTURE_EXPERTS,
                               .sequence = FIXTURE_SEQUENCE,
                               .populations = f->populations,
                               .devices = f->devices,
                               .n_sources = 4,
                               .source_names = source_names,
                               .most_sources = 3,
                               .mixtures = f->mixtures,
                               .routing_windows = windows,
                               .routing_devices = f->windows_of};
    metric_shape shape = {.populations = 2,
                          .devices = devices,
                          .layers = FIXTURE_LAYERS,
                          .experts = FIXTURE_EXPERTS,
                          .windows = windows,
                          .sequence = FIXTURE_SEQUENCE};
    cr_assert(metric_row_create(&f->row, &shape));
    for (metric_id id = 0; id < METRIC_COUNT; id++) fixture_keep(f->row.values[id]);
    fixture_keep(f->row.sorted);
    f->row.first_device = fixture_keep(f->row.first_device);
    f->row.first_device[1] = devices / 2;
    f->row.first_device[2] = devices;
    f->row.described = fixture_keep(f->row.described);
    f->row.described[0] = devices / 2;
    f->row.described[1] = devices - devices / 2;
}

double fixture_loss(int loss, int round, int device) {
    return 1.0 + loss + round / 1024.0 + device / 1048576.0; /* exact, however it is compiled */
}

float fixture_gate(int round, int64_t place) {
    return (float)round + (float)(place % 997) / 1024.0f;
}

metric_row fixture_row(fixture *f, int round) {
    static const metric_id losses[4] = {METRIC_TRAIN_LOSS, METRIC_VALID_LOSS, METRIC_TEST_LOSS,
                                        METRIC_TEST_AFTER};
    static const metric_id times[4] = {METRIC_TIME_TRAIN, METRIC_TIME_EVALUATE, METRIC_TIME_AGGREGATE,
                                       METRIC_TIME_TOTAL};
    static const double seconds[4] = {0.5, 0.25, 0.125, 0.875};
    metric_row *row = &f->row;
    int devices = f->header.n_devices;
    int64_t gates = (int64_t)FIXTURE_LAYERS * FIXTURE_EXPERTS,
            tokens = (int64_t)f->header.routing_windows * FIXTURE_SEQUENCE;
    for (int d = 0; d < devices; d++) {
        for (int i = 0; i < 4; i++) metric_doubles(row, losses[i])[d] = fixture_loss(i, round, d);
        metric_longs(row, METRIC_BYTES_UP)[d] = (int64_t)round << 33;
        metric_longs(row, METRIC_BYTES_DOWN)[d] = d;
    }
    for (int64_t i = 0; i < devices * gates; i++) {
        metric_floats(row, METRIC_GATE_MEAN)[i] = fixture_gate(round, i);
        metric_floats(row, METRIC_TOKEN_SHARE)[i] = -fixture_gate(round, i);
    }
    for (int64_t i = 0; i < tokens * gates; i++)
        metric_floats(row, METRIC_ROUTING_GATES)[i] = fixture_gate(round, i);
    for (int64_t i = 0; i < tokens; i++)
        metric_ints(row, METRIC_ROUTING_IDS)[i] = (int32_t)(round * 1000 + i);
    for (int i = 0; i < 4; i++) *metric_doubles(row, times[i]) = seconds[i];
    *metric_ints(row, METRIC_ROUND) = round;
    row->evaluated = round % 2 == 0;
    return *row;
}

char *fixture_folder(void) {
    const char *parent = getenv("TMPDIR");
    char *folder = fixture_array(4096, 1);
    snprintf(folder, 4096, "%s/cohort-trace-XXXXXX", parent ? parent : "/tmp");
    cr_assert_not_null(mkdtemp(folder));
    cr_assert_lt(n_folders, MOST_FOLDERS);
    owner = getpid();
    folders[n_folders++] = folder;
    return folder;
}

char *fixture_path(const char *folder, const char *name) {
    size_t size = strlen(folder) + strlen(name) + 2;
    char *path = fixture_array((int64_t)size, 1);
    snprintf(path, size, "%s/%s", folder, name);
    return path;
}

void fixture_append(trace *t, fixture *f, int first_round, int last_round) {
    problems *list = problems_create();
    for (int round = first_round; round <= last_round; round++) {
        metric_row row = fixture_row(f, round);
        exit_code code = trace_append(t, &row, list);
        cr_assert_eq(code, EXIT_OK, "round %d: %s", round, code == EXIT_OK ? "" : problems_message(list, 0));
    }
    problems_destroy(list);
}

static void *read_dataset(const char *path, const char *dataset, hid_t type, hsize_t dims[5]) {
    void *values = NULL;
    hsize_t own[5] = {0};
    if (!dims) dims = own;
    h5_error error = {0};
    h5_enter();
    hid_t file = h5_open_file(path, true, &error);
    hid_t table = file < 0 ? -1 : H5Dopen2(file, dataset, H5P_DEFAULT);
    if (table >= 0) {
        hid_t space = H5Dget_space(table);
        int rank = H5Sget_simple_extent_dims(space, dims, NULL);
        size_t bytes = H5Tget_size(type);
        for (int i = 0; i < rank; i++) bytes *= dims[i];
        values = calloc(1, bytes + 8);
        if (H5Dread(table, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) < 0) {
            free(values);
            values = NULL;
        }
        H5Sclose(space);
        H5Dclose(table);
    }
    if (file >= 0) H5Fclose(file);
    h5_leave();
    return values;
}

void *fixture_read(const char *path, const char *dataset, hid_t type, hsize_t dims[5]) {
    return fixture_keep(read_dataset(path, dataset, type, dims));
}

bool fixture_holds(const char *path, int devices, int rounds) {
    hsize_t dims[5] = {0}, loss_dims[5] = {0};
    int32_t *found = read_dataset(path, "/rounds", H5T_NATIVE_INT32, dims);
    double *loss = read_dataset(path, "/loss/train", H5T_NATIVE_DOUBLE, loss_dims);
    bool holds = found && loss && dims[0] >= (hsize_t)rounds && loss_dims[0] >= (hsize_t)rounds &&
                 loss_dims[1] == (hsize_t)devices;
    for (int r = 0; r < rounds && holds; r++) {
        holds = found[r] == r + 1;
        for (int d = 0; d < devices && holds; d++)
            holds = loss[(int64_t)r * devices + d] == fixture_loss(0, r + 1, d);
    }
    free(found);
    free(loss);
    return holds;
}

int fixture_fork(void) {
    int child = fork();
    cr_assert_geq(child, 0);
    if (!child) prctl(PR_SET_PDEATHSIG, SIGKILL);
    return child;
}

int fixture_wait(int child) {
    int status = 0;
    cr_assert_eq(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}
