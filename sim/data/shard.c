/* shard.c - token files, checked once and then read window by window.
 *
 *   llm.c:  256 x int32 header {magic, version, tokens, ...}; magic 20240520, version 1: uint16; magic
 *           20240801, version 7: uint32
 *   flat:   no header; uint16 for vocabularies up to 65536, uint32 above
 *   examples (examples.h): a header of their own
 *
 * All little-endian, as this machine is assumed to be.
 *
 * A window is read with pread() and not through a mapping: a file that shrinks or changes under a run is an
 * error with a name instead of a SIGBUS or an id beyond the vocabulary, the number of sources is not bounded
 * by the kernel's mappings (vm.max_map_count), and the text is the page cache's memory, not the process's. A
 * window takes a microsecond to read and a step on it milliseconds. */
#include "data/shard.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data/examples.h"

enum { HEADER_BYTES = 256 * 4, FLAT16_VOCABULARY = 65536, ENOUGH_TO_GUESS = 64, CHUNK = 4096 };

typedef struct {
    int32_t magic, version;
    int width;
} llmc_format;

static const llmc_format LLMC[] = {{20240520, 1, 2}, {20240801, 7, 4}};

/* CHUNK tokens of either width, as they are in the file. */
typedef union {
    uint16_t narrow[2 * CHUNK];
    uint32_t wide[CHUNK];
} chunk;

static int open_for_reading(const char *path) {
    return open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); /* a pipe is refused, not waited for */
}

static exit_code report_shorter(const shard *s, int file, problems *list) {
    struct stat status = {0};
    (void)fstat(file, &status);
    return problem(list, EXIT_RUN,
                   "%s: has %lld bytes now, but had %lld when it was opened; a shard must stay as it is "
                   "while it is in use: restore it, "
                   "and go on from the last checkpoint",
                   s->path, (long long)status.st_size, (long long)s->bytes);
}

exit_code shard_read_bytes(const shard *s, int file, int64_t at, int64_t bytes, void *out, problems *list) {
    for (int64_t done = 0; done < bytes;) {
        ssize_t n = pread(file, (char *)out + done, (size_t)(bytes - done), at + done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return problem(list, EXIT_RUN, "%s: cannot be read: %s", s->path, strerror(errno));
        if (n == 0) return report_shorter(s, file, list);
        done += n;
    }
    return EXIT_OK;
}

static exit_code read_tokens(const shard *s, int file, int64_t first, int64_t count, void *out,
                             problems *list) {
    return shard_read_bytes(s, file, s->first_byte + first * s->width, count * s->width, out, list);
}

/* ---- Opening ---- */

static exit_code measure_file(shard *s, int file, problems *list) {
    struct stat status;
    if (file < 0 || fstat(file, &status) != 0)
        return problem(list, EXIT_INPUT, "%s: cannot be opened: %s", s->path, strerror(errno));
    if (!S_ISREG(status.st_mode) || status.st_size == 0)
        return problem(list, EXIT_INPUT, "%s: %s; a shard holds token ids", s->path,
                       S_ISREG(status.st_mode) ? "is empty" : "is not a file");
    s->bytes = status.st_size;
    return EXIT_OK;
}

static const llmc_format *llmc_of(int32_t magic) {
    for (size_t i = 0; i < sizeof LLMC / sizeof *LLMC; i++)
        if (LLMC[i].magic == magic) return &LLMC[i];
    return NULL;
}

static exit_code layout_llmc(const int32_t header[3], const llmc_format *format, shard *s, problems *list) {
    if (header[1] != format->version)
        return problem(list, EXIT_INPUT, "%s: llm.c shard of version %d; version %d is known for magic %d",
                       s->path, header[1], format->version, format->magic);
    int64_t payload = s->bytes - HEADER_BYTES;
    if (header[2] <= 0 || payload != (int64_t)header[2] * format->width)
        return problem(list, EXIT_INPUT,
                       "%s: the llm.c header announces %d tokens of %d bytes, but %lld bytes follow it%s",
                       s->path, header[2], format->width, (long long)payload,
                       header[2] > 0 && payload < (int64_t)header[2] * format->width ? " (truncated?)" : "");
    s->width = format->width;
    s->count = header[2];
    s->first_byte = HEADER_BYTES;
    return EXIT_OK;
}

static exit_code layout_flat(shard *s, problems *list) {
    s->width = s->vocabulary <= FLAT16_VOCABULARY ? 2 : 4;
    s->count = s->bytes / s->width;
    if (s->bytes % s->width == 0) return EXIT_OK;
    return problem(list, EXIT_INPUT,
                   "%s: %lld bytes are no multiple of %d; a vocabulary of %u is read as uint%d%s", s->path,
                   (long long)s->bytes, s->width, s->vocabulary, 8 * s->width,
                   s->width == 4 && s->bytes % 2 == 0 ? " (is the file uint16?)" : "");
}

static exit_code find_layout(shard *s, int file, problems *list) {
    int32_t header[3] = {0};
    char beginning[8] = {0};
    exit_code code = EXIT_OK;
    if (s->bytes >= (int64_t)sizeof beginning)
        code = shard_read_bytes(s, file, 0, sizeof beginning, beginning, list);
    if (code == EXIT_OK && examples_known(beginning)) return examples_layout(s, file, list);
    if (code == EXIT_OK && s->bytes >= HEADER_BYTES)
        code = shard_read_bytes(s, file, 0, sizeof header, header, list);
    if (code != EXIT_OK) return code;
    const llmc_format *format = llmc_of(header[0]);
    return format ? layout_llmc(header, format, s, list) : layout_flat(s, list);
}

/* ---- Checking ---- */

static uint32_t token_at(const chunk *c, int width, int64_t i) {
    return width == 2 ? c->narrow[i] : c->wide[i];
}

/* The position of the first of `count` ids that is not below the vocabulary, or `count`. */
static int64_t first_beyond(const chunk *c, int width, int64_t count, uint32_t vocabulary) {
    int64_t i = 0;
    while (i < count && token_at(c, width, i) < vocabulary) i++;
    return i;
}

/* What all of a shard's ids have in common. */
typedef struct {
    int64_t beyond;    /* position of the first id that is not below the vocabulary; -1: none */
    uint32_t id;       /* that one */
    uint32_t odd, any; /* uint16: the bits of every second id, and of all */
    bool narrow_fits;  /* uint32: read as uint16 all would be below the vocabulary */
} findings;

static void look_at(const shard *s, const chunk *c, int64_t first, int64_t count, findings *seen) {
    int64_t beyond = first_beyond(c, s->width, count, s->vocabulary);
    if (seen->beyond < 0 && beyond < count) {
        seen->beyond = first + beyond;
        seen->id = token_at(c, s->width, beyond);
    }
    for (int64_t i = 0; s->width == 2 && i < count; i++) {
        seen->any |= c->narrow[i];
        if (i % 2 == 1) seen->odd |= c->narrow[i];
    }
    if (s->width == 4)
        seen->narrow_fits = seen->narrow_fits && first_beyond(c, 2, 2 * count, s->vocabulary) == 2 * count;
}

static exit_code judge(const shard *s, const findings *seen, problems *list) {
    /* uint32 ids below 65536, read as uint16: every second one is 0. */
    if (s->examples == 0 && s->width == 2 && s->count % 2 == 0 && s->count >= ENOUGH_TO_GUESS &&
        seen->odd == 0 && seen->any != 0)
        return problem(list, EXIT_INPUT,
                       "%s: every second uint16 is 0, so the file looks like uint32; a vocabulary of %u (up "
                       "to %d) is read as uint16: write it so, "
                       "or with an llm.c header",
                       s->path, s->vocabulary, FLAT16_VOCABULARY);
    if (seen->beyond < 0) return EXIT_OK;
    return problem(list, EXIT_INPUT,
                   "%s: token %lld is %u, but ids must be below the vocabulary of %u (read as uint%d)%s",
                   s->path, (long long)seen->beyond, seen->id, s->vocabulary, 8 * s->width,
                   s->width == 4 && seen->narrow_fits ? "; as uint16 all would be" : "");
}

static exit_code check_ids(const shard *s, int file, problems *list) {
    findings seen = {.beyond = -1, .narrow_fits = true};
    chunk c;
    for (int64_t first = 0; first < s->count; first += CHUNK) {
        int64_t count = s->count - first < CHUNK ? s->count - first : CHUNK;
        exit_code code = read_tokens(s, file, first, count, &c, list);
        if (code != EXIT_OK) return code;
        look_at(s, &c, first, count, &seen);
    }
    return judge(s, &seen, list);
}

/* Half of the files that the process may open are left to others. */
static bool may_stay_open(int file) {
    struct rlimit limit;
    return getrlimit(RLIMIT_NOFILE, &limit) == 0 && (rlim_t)file < limit.rlim_cur / 2;
}

exit_code shard_open(const char *path, int vocabulary, shard **out, problems *list) {
    *out = NULL;
    shard *s = calloc(1, sizeof *s);
    if (s) s->path = strdup(path);
    if (!s || !s->path) {
        free(s);
        return problem(list, EXIT_ENVIRONMENT, "%s: no memory to open it", path);
    }
    s->vocabulary = (uint32_t)vocabulary;
    s->file = open_for_reading(path);
    exit_code code = measure_file(s, s->file, list);
    THEN(code, find_layout(s, s->file, list));
    if (code == EXIT_OK && s->examples > 0) code = examples_check(s, s->file, list);
    THEN(code, check_ids(s, s->file, list));
    if (code != EXIT_OK) {
        shard_close(s);
        return code;
    }
    if (!may_stay_open(s->file)) {
        close(s->file);
        s->file = -1;
    }
    *out = s;
    return EXIT_OK;
}

shard *shard_of_memory(uint16_t *tokens_owned, int64_t count) {
    shard *s = calloc(1, sizeof *s);
    if (!s) {
        free(tokens_owned);
        return NULL;
    }
    *s = (shard){.file = -1, .width = 2, .count = count, .tokens = tokens_owned};
    return s;
}

void shard_close(shard *s) {
    if (!s) return;
    if (s->file >= 0) close(s->file);
    free(s->path);
    free(s->tokens);
    free(s);
}

/* ---- Reading ---- */

int64_t shard_tokens(const shard *s) {
    return s->count;
}

static exit_code read_chunk(const shard *s, int file, int64_t first, int64_t count, int32_t *out,
                            problems *list) {
    chunk c;
    exit_code code = read_tokens(s, file, first, count, &c, list);
    if (code != EXIT_OK) return code;
    int64_t beyond = first_beyond(&c, s->width, count, s->vocabulary);
    if (beyond < count)
        return problem(list, EXIT_RUN,
                       "%s: token %lld has become %u, which is not below the vocabulary of %u; a shard must "
                       "stay as it is while it is in "
                       "use: restore it, and go on from the last checkpoint",
                       s->path, (long long)(first + beyond), token_at(&c, s->width, beyond), s->vocabulary);
    for (int64_t i = 0; i < count; i++) out[i] = (int32_t)token_at(&c, s->width, i);
    return EXIT_OK;
}

/* file: where the tokens are, unless they are in memory. */
static exit_code read_ids(const shard *s, int file, int64_t first, int64_t count, int32_t *out,
                          problems *list) {
    exit_code code = EXIT_OK;
    for (int64_t i = 0; s->tokens && i < count; i++) out[i] = s->tokens[first + i];
    for (int64_t done = 0; !s->tokens && done < count && code == EXIT_OK; done += CHUNK)
        code =
            read_chunk(s, file, first + done, count - done < CHUNK ? count - done : CHUNK, out + done, list);
    return code;
}

exit_code shard_enter(const shard *s, int *file, problems *list) {
    *file = s->file >= 0 || s->tokens ? s->file : open_for_reading(s->path);
    if (*file >= 0 || s->tokens) return EXIT_OK;
    return problem(list, EXIT_RUN, "%s: cannot be opened again: %s", s->path, strerror(errno));
}

void shard_leave(const shard *s, int file) {
    if (file >= 0 && file != s->file) close(file);
}

exit_code shard_read(const shard *s, int64_t first, int64_t count, int32_t *out, problems *list) {
    int file;
    exit_code code = shard_enter(s, &file, list);
    THEN(code, read_ids(s, file, first, count, out, list));
    shard_leave(s, file);
    return code;
}

exit_code shard_window(const shard *s, int64_t first, int sequence, int32_t *tokens, int32_t *targets,
                       problems *list) {
    int file;
    exit_code code = shard_enter(s, &file, list);
    THEN(code, read_ids(s, file, first, sequence, tokens, list));
    THEN(code, read_ids(s, file, first + sequence, 1, &targets[sequence - 1], list));
    if (code == EXIT_OK) memcpy(targets, tokens + 1, (size_t)(sequence - 1) * sizeof *targets);
    shard_leave(s, file);
    return code;
}
