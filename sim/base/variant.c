/* Opens variants: which tensors they have, and where these belong. */
#include "base/variant.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/variant_parts.h"

enum { MAX_MESSAGES = 8 };

/* ---- Names ---- */

base_shape variant_widest_shape(const base_shape *shape) {
    base_shape widest = *shape;
    widest.qkv_bias = widest.out_bias = widest.mlp_bias = true;
    return widest;
}

static exit_code list_names(const base_shape *shape, variant_names *out, problems *list) {
    out->shape = variant_widest_shape(shape);
    out->layout = base_layout_of(&out->shape);
    out->n = base_tensor_count(&out->shape);
    out->tensors_owned = base_tensor_list(&out->shape, &out->layout, "");
    return out->tensors_owned ? EXIT_OK
                              : problem(list, EXIT_ENVIRONMENT, "out of memory for the names of a base");
}

/* The linear that holds the offset; -1: none does. *first: where its weight, or its bias, begins. */
static int linear_at(const variant_names *names, int64_t offset, bool *bias, int64_t *first) {
    for (int i = 0; i < names->shape.layers * BASE_LAYER_LINEARS; i++) {
        base_linear l = base_linear_at(&names->shape, &names->layout, i);
        *bias = l.bias >= 0 && offset >= l.bias && offset < l.bias + l.out;
        *first = *bias ? l.bias : l.weight;
        if (*bias || (offset >= l.weight && offset < l.weight + (int64_t)l.in * l.out)) return i;
    }
    return -1;
}

/* Of a tensor that is no linear's: where the base has it. */
static int64_t offset_in(const base_shape *base, const char *name) {
    base_layout layout = base_layout_of(base);
    int64_t offset = -1;
    for (int i = 0; i < base_tensor_count(base) && offset < 0; i++) {
        packed_tensor t = base_tensor(base, &layout, "", i, NULL);
        if (strcmp(t.name, name) == 0) offset = t.offset;
    }
    return offset;
}

bool variant_find(const variant_names *names, const base_shape *base, const char *name, variant_part *out) {
    const char *prefix = base_family_of(base->family)->prefix;
    size_t skip = strncmp(name, prefix, strlen(prefix)) == 0 ? strlen(prefix) : 0;
    for (int i = 0; i < names->n; i++) {
        if (strcmp(names->tensors_owned[i].name, name + skip) != 0) continue;
        int64_t first = 0;
        *out = (variant_part){.tensor = names->tensors_owned[i], .pair = -1};
        out->linear = linear_at(names, out->tensor.offset, &out->bias, &first);
        out->tensor.offset =
            out->linear >= 0 ? out->tensor.offset - first : offset_in(base, out->tensor.name);
        return true;
    }
    return false;
}

/* ---- Places ---- */

static int64_t take(int64_t *end, int64_t count) {
    int64_t at = *end;
    *end = (at + count + CK_ALIGN_FLOATS - 1) / CK_ALIGN_FLOATS * CK_ALIGN_FLOATS;
    return at;
}

/* weight, bias [n_linears]: what is replaced. */
static exit_code place(base_variant *v, const bool *weight, const bool *bias, problems *list) {
    v->places = calloc((size_t)v->n_linears, sizeof *v->places);
    if (!v->places) return problem(list, EXIT_ENVIRONMENT, "%s: no memory", v->path_owned);
    for (int i = 0; i < v->n_linears; i++) {
        base_linear l = base_linear_at(&v->shape, &v->layout, i);
        v->places[i] = (variant_place){-1, -1};
        if (weight[i]) v->places[i].weight = take(&v->floats, (int64_t)l.in * l.out);
        if (bias[i]) v->places[i].bias = take(&v->floats, l.out);
    }
    return EXIT_OK;
}

static exit_code place_parts(base_variant *v, problems *list) {
    size_t n = (size_t)v->n_linears;
    bool *weight = calloc(n, sizeof *weight), *bias = calloc(n, sizeof *bias);
    int replaced = 0;
    exit_code code = EXIT_OK;
    for (int i = 0; i < v->n_parts && weight && bias; i++) {
        if (v->parts[i].linear < 0) continue;
        (v->parts[i].bias ? bias : weight)[v->parts[i].linear] = true;
        replaced++;
    }
    if (!weight || !bias)
        code = problem(list, EXIT_ENVIRONMENT, "%s: no memory", v->path_owned);
    else if (replaced == 0)
        code =
            problem(list, EXIT_INPUT, "%s: holds nothing that changes a linear of the base", v->path_owned);
    else
        code = place(v, weight, bias, list);
    free(weight);
    free(bias);
    return code;
}

/* ---- Reading what is there ---- */

static int64_t elements(const packed_tensor *t) {
    return t->n_dims == 1 ? t->dims[0] : t->dims[0] * t->dims[1];
}

typedef struct {
    base_variant *v;
    variant_names names;
    int refused; /* tensors that do not fit the base */
    problems *list;
} opener;

/* "[8, 128]" */
static const char *shape_text(const safetensor *t, char out[96]) {
    int length = snprintf(out, 96, "[");
    for (int i = 0; i < t->n_dims && length < 80; i++)
        length += snprintf(out + length, 96 - (size_t)length, i ? ", %lld" : "%lld", (long long)t->dims[i]);
    snprintf(out + length, 96 - (size_t)length, "]");
    return out;
}

/* A tensor that this base does not have; the first of them are named. */
static void refuse_stranger(opener *o, const safetensor *t) {
    char shown[SAFETENSORS_SHOWN_BYTES], shape[96], base[BASE_TEXT_BYTES];
    if (o->refused++ < MAX_MESSAGES)
        problem(o->list, EXIT_INPUT, "%s: tensor \"%s\" %s has no place in this base (%s)", o->v->path_owned,
                safetensors_shown(t->name, shown), shape_text(t, shape), base_describe(&o->v->shape, base));
}

static exit_code end_refused(const opener *o) {
    if (o->refused > MAX_MESSAGES)
        problem(o->list, EXIT_INPUT, "%s: %d more do not fit this base", o->v->path_owned,
                o->refused - MAX_MESSAGES);
    return o->refused ? EXIT_INPUT : EXIT_OK;
}

static variant_part *next_part(opener *o) {
    base_variant *v = o->v;
    variant_part *grown = realloc(v->parts, ((size_t)v->n_parts + 1) * sizeof *grown);
    if (!grown) return NULL;
    v->parts = grown;
    return &grown[v->n_parts];
}

static exit_code no_memory(const opener *o) {
    return problem(o->list, EXIT_ENVIRONMENT, "%s: no memory", o->v->path_owned);
}

/* ---- Dense ---- */

static exit_code add_tensor(opener *o, const safetensors *file, const safetensor *t) {
    variant_part *part = next_part(o);
    if (!part) return no_memory(o);
    if (!variant_find(&o->names, &o->v->shape, t->name, part)) {
        if (!base_family_of(o->v->shape.family)->may_be_there(t->name)) refuse_stranger(o, t);
        return EXIT_OK;
    }
    snprintf(part->tensor.name, sizeof part->tensor.name, "%s", t->name);
    exit_code code = safetensors_check_one(file, &part->tensor, o->list);
    if (code == EXIT_OK) {
        o->v->n_parts++;
        if (part->linear >= 0) o->v->values += elements(&part->tensor);
    }
    return code;
}

static exit_code open_dense(opener *o, bool folder) {
    base_variant *v = o->v;
    exit_code code = folder ? shards_open(v->path_owned, &v->files, o->list)
                            : shards_open_file(v->path_owned, &v->files, o->list);
    if (code != EXIT_OK) return code;
    for (int i = 0; i < v->files.n; i++)
        for (int64_t j = 0; j < safetensors_count(v->files.files_owned[i]); j++) {
            const safetensors *file = v->files.files_owned[i];
            exit_code one = add_tensor(o, file, safetensors_at(file, j));
            if (one != EXIT_OK) code = one;
        }
    exit_code refused = end_refused(o);
    return THEN(code, refused);
}

/* ---- Factors ---- */

static void check_pair(opener *o, const peft_pair *pair, const variant_part *part) {
    base_linear l = base_linear_at(&o->names.shape, &o->names.layout, part->linear);
    int64_t rows = elements(&part->tensor) / l.in;
    if ((pair->in == l.in && pair->out == rows) || o->refused++ >= MAX_MESSAGES) return;
    problem(
        o->list, EXIT_INPUT,
        "%s: the LoRA of %s is of a linear with %lld inputs and %lld outputs; this base's has %d and %lld",
        o->v->path_owned, pair->module, (long long)pair->in, (long long)pair->out, l.in, (long long)rows);
}

static exit_code add_pair(opener *o, int index) {
    const peft_pair *pair = &o->v->lora.pairs_owned[index];
    char name[PACKED_NAME_BYTES + 16];
    variant_part *part = next_part(o);
    if (!part) return no_memory(o);
    snprintf(name, sizeof name, "%s.weight", pair->module);
    if (!variant_find(&o->names, &o->v->shape, name, part) || part->linear < 0 || part->bias) {
        refuse_stranger(o, pair->a);
        return EXIT_OK;
    }
    check_pair(o, pair, part);
    part->pair = index;
    o->v->n_parts++;
    o->v->values += pair->rank * (pair->in + pair->out);
    return EXIT_OK;
}

static exit_code open_factors(opener *o) {
    exit_code code = peft_lora_open(o->v->path_owned, &o->v->lora, o->list);
    if (code != EXIT_OK) return code;
    for (int i = 0; i < o->v->lora.n; i++) {
        exit_code one = add_pair(o, i);
        if (one != EXIT_OK) code = one;
    }
    exit_code refused = end_refused(o);
    return THEN(code, refused);
}

/* ---- Life ---- */

static base_variant *create(const char *path, const base_shape *shape) {
    base_variant *v = calloc(1, sizeof *v);
    if (!v) return NULL;
    v->path_owned = strdup(path);
    v->shape = *shape;
    v->layout = base_layout_of(shape);
    v->n_linears = shape->layers * BASE_LAYER_LINEARS;
    if (v->path_owned) return v;
    free(v);
    return NULL;
}

static exit_code open_path(opener *o) {
    struct stat info;
    const char *path = o->v->path_owned;
    if (stat(path, &info) != 0)
        return problem(o->list, EXIT_INPUT, "%s: there is no such file or folder", path);
    if (!S_ISDIR(info.st_mode)) return open_dense(o, false);
    return peft_lora_is_there(path) ? open_factors(o) : open_dense(o, true);
}

exit_code base_variant_open(const char *path, const base_shape *shape, base_variant **out, problems *list) {
    *out = NULL;
    opener o = {.v = create(path, shape), .list = list};
    if (!o.v) return problem(list, EXIT_ENVIRONMENT, "%s: no memory", path);
    exit_code code = list_names(shape, &o.names, list);
    THEN(code, open_path(&o));
    THEN(code, place_parts(o.v, list));
    free(o.names.tensors_owned);
    if (code == EXIT_OK)
        *out = o.v;
    else
        base_variant_close(o.v);
    return code;
}

void base_variant_close_files(base_variant *v) {
    peft_lora_close(&v->lora);
    shards_close(&v->files);
}

void base_variant_close(base_variant *v) {
    if (!v) return;
    base_variant_close_files(v);
    free(v->path_owned);
    free(v->places);
    free(v->parts);
    free(v);
}

const char *base_variant_path(const base_variant *v) {
    return v->path_owned;
}

int base_variant_linears(const base_variant *v) {
    return v->n_linears;
}

variant_place base_variant_place(const base_variant *v, int linear) {
    return v->places[linear];
}

int64_t base_variant_floats(const base_variant *v) {
    return v->floats;
}

int64_t base_variant_values(const base_variant *v) {
    return v->values;
}

base_linear base_variant_linear(const base_variant *v, int linear) {
    return base_linear_at(&v->shape, &v->layout, linear);
}

/* Values of a linear that are replaced. */
static int64_t values_of(const base_variant *v, int linear) {
    base_linear l = base_variant_linear(v, linear);
    return (v->places[linear].weight >= 0 ? (int64_t)l.in * l.out : 0) +
           (v->places[linear].bias >= 0 ? l.out : 0);
}

int64_t base_variant_replaced(const base_variant *v) {
    int64_t all = 0;
    for (int i = 0; i < v->n_linears; i++) all += values_of(v, i);
    return all;
}

int64_t base_variant_largest(const base_variant *v) {
    int64_t largest = 0;
    for (int i = 0; i < v->n_linears; i++)
        if (values_of(v, i) > largest) largest = values_of(v, i);
    return largest;
}
