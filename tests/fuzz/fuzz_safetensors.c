/* fuzz_safetensors.c - any bytes as a safetensors file: refused with a message, or every tensor lies inside
 * and can be read. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/safetensors.h"

enum { MOST_FLOATS = 4096 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* As a base or an adapter would ask for it; false if no pack has room for it. */
static bool ask_for(const safetensor *t, bool transposed, packed_tensor *out) {
    *out = (packed_tensor){.n_dims = t->n_dims, .transposed = transposed && t->n_dims == 2};
    if (t->n_dims < 1 || t->n_dims > 2 || strlen(t->name) >= sizeof out->name) return false;
    int64_t floats = 1;
    for (int i = 0; i < t->n_dims; i++) {
        out->dims[i] = t->dims[i];
        if (t->dims[i] > MOST_FLOATS || (floats *= t->dims[i]) > MOST_FLOATS) return false;
    }
    strcpy(out->name, t->name);
    return true;
}

static void read_tensor(const safetensors *file, const safetensor *t, bool transposed) {
    float *pack = malloc(MOST_FLOATS * sizeof *pack);
    packed_tensor wanted;
    if (ask_for(t, transposed, &wanted)) {
        problems *list = problems_create();
        safetensors_check(file, &wanted, 1, NULL, list);
        if (t->dtype != SAFETENSORS_OTHER && safetensors_read(file, &wanted, 1, pack, list) == EXIT_OK)
            for (int64_t i = 0; i < wanted.dims[0] * (wanted.n_dims == 2 ? wanted.dims[1] : 1); i++)
                if (!isfinite(pack[i])) abort();
        problems_destroy(list);
    }
    free(pack);
}

static void visit(const safetensors *file, size_t size) {
    for (int64_t i = 0; i < safetensors_count(file); i++) {
        const safetensor *t = safetensors_at(file, i);
        if (t->begin > size || t->bytes > size - t->begin) abort();
        if (safetensors_find(file, t->name) != t) abort();
        read_tensor(file, t, i % 2 == 1);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    problems *list = problems_create();
    safetensors *file = NULL;
    exit_code code = safetensors_parse(data, size, "fuzz", &file, list);
    if ((code == EXIT_OK) != (file != NULL) || (code == EXIT_OK) != (problems_count(list) == 0)) abort();
    if (file) visit(file, size);
    safetensors_close(file);
    problems_destroy(list);
    return 0;
}
