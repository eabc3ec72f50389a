/* A variant as a file of its linears, or as a whole model. */
#include <stdlib.h>
#include <string.h>

#include "base/variant_parts.h"

/* The tensors of a checkpoint that the variant replaces, with offsets into its array. */
static exit_code list_replaced(const base_variant *v, packed_tensor **out, int *n, problems *list) {
    base_shape widest = variant_widest_shape(&v->shape);
    base_layout layout = base_layout_of(&widest);
    const char *prefix = base_family_of(v->shape.family)->prefix;
    packed_tensor *all = base_tensor_list(&widest, &layout, prefix);
    variant_names names = {widest, layout, base_tensor_count(&widest),
                           base_tensor_list(&widest, &layout, "")};
    exit_code code = EXIT_OK;
    *n = 0;
    if (!all || !names.tensors_owned)
        code = problem(list, EXIT_ENVIRONMENT, "%s: no memory to write it", v->path_owned);
    for (int i = 0; i < names.n && code == EXIT_OK; i++) {
        variant_part part;
        if (!variant_find(&names, &v->shape, all[i].name, &part) || part.linear < 0) continue;
        variant_place at = v->places[part.linear];
        int64_t first = part.bias ? at.bias : at.weight;
        if (first < 0) continue;
        all[*n] = all[i];
        all[(*n)++].offset = first + part.tensor.offset;
    }
    free(names.tensors_owned);
    *out = code == EXIT_OK ? all : NULL;
    if (code != EXIT_OK) free(all);
    return code;
}

exit_code base_variant_write(const base_variant *v, const float *values, const char *path, problems *list) {
    packed_tensor *tensors = NULL;
    int n = 0;
    exit_code code = list_replaced(v, &tensors, &n, list);
    THEN(code, safetensors_write(path, tensors, n, values, list));
    free(tensors);
    return code;
}

/* ---- A whole model ---- */

static bool any_bias(const base_variant *v, base_layer_linear which) {
    for (int i = (int)which; i < v->n_linears; i += BASE_LAYER_LINEARS)
        if (v->places[i].bias >= 0) return true;
    return false;
}

/* The base's, with the biases that the variant adds; Llama's config.json says of all attention, and of the
 * whole MLP, whether there are any. */
static base_shape whole_shape(const base_variant *v) {
    base_shape s = v->shape;
    s.mlp_bias |= any_bias(v, BASE_FC) || any_bias(v, BASE_PR);
    s.out_bias |= any_bias(v, BASE_OUT);
    s.qkv_bias |= any_bias(v, BASE_QKV) || s.out_bias;
    s.out_bias |= s.qkv_bias && s.mlp_bias; /* a Qwen2 has biases on q, k and v alone */
    return s;
}

/* Tensors of equal names; biases that only the copy has stay 0. */
static exit_code copy_tensors(const base_model *from, base_model *to, problems *list) {
    int n = base_tensor_count(&from->shape), m = base_tensor_count(&to->shape);
    packed_tensor *a = base_tensor_list(&from->shape, &from->layout, ""),
                  *b = base_tensor_list(&to->shape, &to->layout, "");
    exit_code code = a && b ? EXIT_OK : problem(list, EXIT_ENVIRONMENT, "out of memory for a base");
    for (int i = 0, j = 0; i < n && j < m && code == EXIT_OK; j++) {
        if (strcmp(a[i].name, b[j].name) != 0) continue;
        int64_t count = a[i].n_dims == 1 ? a[i].dims[0] : a[i].dims[0] * a[i].dims[1];
        memcpy(to->weights + b[j].offset, from->weights + a[i].offset, (size_t)count * sizeof(float));
        i++;
    }
    free(a);
    free(b);
    return code;
}

exit_code base_variant_whole(const base_variant *v, const base_model *base, base_model **out,
                             problems *list) {
    base_shape shape = whole_shape(v);
    *out = NULL;
    exit_code code = base_variant_check(v, base, list);
    THEN(code, base_create(&shape, out, list));
    THEN(code, copy_tensors(base, *out, list));
    for (int i = 0; i < v->n_linears && code == EXIT_OK; i++) {
        base_linear l = base_linear_at(&shape, &(*out)->layout, i);
        float *weights = (*out)->weights;
        code = base_variant_fold(v, base, i, weights + l.weight, l.bias >= 0 ? weights + l.bias : NULL, list);
    }
    if (code == EXIT_OK) return EXIT_OK;
    base_destroy(*out);
    *out = NULL;
    return code;
}
