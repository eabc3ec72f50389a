/* shard.c - token files, mapped and checked.
 *
 *   llm.c:  256 x int32 header {magic, version, tokens, ...}; magic 20240520, version 1: uint16; magic 20240801, version 7: uint32
 *   flat:   no header; uint16 for vocabularies up to 65536, uint32 above
 *
 * Both little-endian, as this machine is assumed to be. */
#include "data/shard.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HEADER_BYTES = 256 * 4, FLAT16_VOCABULARY = 65536, ENOUGH_TO_GUESS = 64 };

struct shard {
    int width;          /* bytes a token: 2 or 4 */
    int64_t count;      /* tokens */
    const void *tokens; /* [count] */
    void *map;          /* NULL: in memory */
    size_t map_bytes;
    uint16_t *owned;
};

typedef struct {
    int32_t magic, version;
    int width;
} llmc_format;

static const llmc_format LLMC[] = {{20240520, 1, 2}, {20240801, 7, 4}};

static exit_code map_file(const char *path, shard *s, problems *list) {
    struct stat status;
    exit_code code = EXIT_OK;
    int file = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); /* a pipe is refused, not waited for */
    if (file < 0 || fstat(file, &status) != 0) {
        code = problem(list, EXIT_INPUT, "%s: cannot be opened: %s", path, strerror(errno));
        goto cleanup;
    }
    if (!S_ISREG(status.st_mode) || status.st_size == 0) {
        code = problem(list, EXIT_INPUT, "%s: %s; a shard holds token ids", path, S_ISREG(status.st_mode) ? "is empty" : "is not a file");
        goto cleanup;
    }
    s->map_bytes = (size_t)status.st_size;
    s->map = mmap(NULL, s->map_bytes, PROT_READ, MAP_PRIVATE, file, 0);
    if (s->map == MAP_FAILED) {
        s->map = NULL;
        code = problem(list, EXIT_ENVIRONMENT, "%s: cannot be mapped: %s", path, strerror(errno));
    }
cleanup:
    if (file >= 0) close(file);
    return code;
}

static const llmc_format *llmc_of(const shard *s) {
    int32_t magic = 0;
    if (s->map_bytes < HEADER_BYTES) return NULL;
    memcpy(&magic, s->map, sizeof magic);
    for (size_t i = 0; i < sizeof LLMC / sizeof *LLMC; i++)
        if (LLMC[i].magic == magic) return &LLMC[i];
    return NULL;
}

static exit_code layout_llmc(const char *path, const llmc_format *format, shard *s, problems *list) {
    int32_t header[3];
    memcpy(header, s->map, sizeof header);
    if (header[1] != format->version)
        return problem(list, EXIT_INPUT, "%s: llm.c shard of version %d; version %d is known for magic %d", path, header[1],
                       format->version, format->magic);
    int64_t payload = (int64_t)s->map_bytes - HEADER_BYTES;
    if (header[2] <= 0 || payload != (int64_t)header[2] * format->width)
        return problem(list, EXIT_INPUT, "%s: the llm.c header announces %d tokens of %d bytes, but %lld bytes follow it%s", path,
                       header[2], format->width, (long long)payload,
                       header[2] > 0 && payload < (int64_t)header[2] * format->width ? " (truncated?)" : "");
    s->width = format->width;
    s->count = header[2];
    s->tokens = (const char *)s->map + HEADER_BYTES;
    return EXIT_OK;
}

static exit_code layout_flat(const char *path, int vocabulary, shard *s, problems *list) {
    s->width = vocabulary <= FLAT16_VOCABULARY ? 2 : 4;
    s->tokens = s->map;
    s->count = (int64_t)(s->map_bytes / (size_t)s->width);
    if (s->map_bytes % (size_t)s->width == 0) return EXIT_OK;
    return problem(list, EXIT_INPUT, "%s: %zu bytes are no multiple of %d; a vocabulary of %d is read as uint%d%s", path, s->map_bytes,
                   s->width, vocabulary, 8 * s->width, s->width == 4 && s->map_bytes % 2 == 0 ? " (is the file uint16?)" : "");
}

static uint32_t token_at(const void *tokens, int width, int64_t i) {
    return width == 2 ? ((const uint16_t *)tokens)[i] : ((const uint32_t *)tokens)[i];
}

/* The position of the first id that is not below the vocabulary, or `count`. */
static int64_t first_beyond(const void *tokens, int width, int64_t count, uint32_t vocabulary) {
    int64_t i = 0;
    while (i < count && token_at(tokens, width, i) < vocabulary) i++;
    return i;
}

/* uint32 ids below 65536, read as uint16: every second one is 0. */
static bool looks_like_uint32(const shard *s) {
    if (s->width != 2 || s->count % 2 != 0 || s->count < ENOUGH_TO_GUESS) return false;
    bool other = false;
    for (int64_t i = 0; i < s->count; i++) {
        uint32_t id = token_at(s->tokens, 2, i);
        if (i % 2 == 1 && id != 0) return false;
        other = other || id != 0;
    }
    return other;
}

static bool looks_like_uint16(const shard *s, int vocabulary) {
    int64_t narrow = 2 * s->count;
    return s->width == 4 && first_beyond(s->tokens, 2, narrow, (uint32_t)vocabulary) == narrow;
}

static exit_code check_ids(const char *path, const shard *s, int vocabulary, problems *list) {
    if (looks_like_uint32(s))
        return problem(
            list, EXIT_INPUT,
            "%s: every second uint16 is 0, so the file looks like uint32; a vocabulary of %d (up to %d) is read as uint16: write it so, "
            "or with an llm.c header",
            path, vocabulary, FLAT16_VOCABULARY);
    int64_t i = first_beyond(s->tokens, s->width, s->count, (uint32_t)vocabulary);
    if (i == s->count) return EXIT_OK;
    return problem(list, EXIT_INPUT, "%s: token %lld is %u, but ids must be below the vocabulary of %d (read as uint%d)%s", path,
                   (long long)i, token_at(s->tokens, s->width, i), vocabulary, 8 * s->width,
                   looks_like_uint16(s, vocabulary) ? "; as uint16 all would be" : "");
}

exit_code shard_open(const char *path, int vocabulary, shard **out, problems *list) {
    *out = NULL;
    shard *s = calloc(1, sizeof *s);
    if (!s) return problem(list, EXIT_ENVIRONMENT, "%s: no memory to open it", path);
    exit_code code = map_file(path, s, list);
    if (code == EXIT_OK) {
        const llmc_format *format = llmc_of(s);
        code = format ? layout_llmc(path, format, s, list) : layout_flat(path, vocabulary, s, list);
    }
    if (code == EXIT_OK) code = check_ids(path, s, vocabulary, list);
    if (code == EXIT_OK)
        *out = s;
    else
        shard_close(s);
    return code;
}

shard *shard_of_memory(uint16_t *tokens_owned, int64_t count) {
    shard *s = calloc(1, sizeof *s);
    if (!s) {
        free(tokens_owned);
        return NULL;
    }
    *s = (shard){.width = 2, .count = count, .tokens = tokens_owned, .owned = tokens_owned};
    return s;
}

void shard_close(shard *s) {
    if (!s) return;
    if (s->map) munmap(s->map, s->map_bytes);
    free(s->owned);
    free(s);
}

int64_t shard_tokens(const shard *s) {
    return s->count;
}

void shard_read(const shard *s, int64_t first, int64_t count, int32_t *out) {
    for (int64_t i = 0; i < count; i++) out[i] = (int32_t)token_at(s->tokens, s->width, first + i);
}
