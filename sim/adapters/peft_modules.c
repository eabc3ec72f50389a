#include "adapters/peft_modules.h"

#include <stdio.h>
#include <stdlib.h>

#include "adapters/adapters.h"

bool peft_is_gpt2(const ck_shape *shape) {
    return shape->mlp == CK_MLP_GELU;
}

const char *peft_module_name(const ck_shape *shape, ck_site site) {
    static const char *const gpt2[CK_SITES] = {[CK_SITE_QKV] = "attn.c_attn",
                                               [CK_SITE_OUT] = "attn.c_proj",
                                               [CK_SITE_FC] = "mlp.c_fc",
                                               [CK_SITE_PR] = "mlp.c_proj"};
    static const char *const llama[CK_SITES] = {
        [CK_SITE_Q] = "self_attn.q_proj", [CK_SITE_K] = "self_attn.k_proj",
        [CK_SITE_V] = "self_attn.v_proj", [CK_SITE_OUT] = "self_attn.o_proj",
        [CK_SITE_GATE] = "mlp.gate_proj", [CK_SITE_FC] = "mlp.up_proj",
        [CK_SITE_PR] = "mlp.down_proj"};
    return peft_is_gpt2(shape) ? gpt2[site] : llama[site];
}

float peft_scale_of(const ck_shape *shape, const ck_part *part) {
    return part->adapter == CK_LORA ? shape->lora_scale[part->site] : shape->scale[part->expert];
}

/* The part's module: the layer's, if it is there already, else a new one. */
static peft_module *module_of(peft_modules *modules, const ck_part *part) {
    int i = modules->count;
    while (i > 0 && modules->list[i - 1].layer == part->layer && modules->list[i - 1].site != part->site) i--;
    if (i > 0 && modules->list[i - 1].layer == part->layer) return &modules->list[i - 1];
    peft_module *module = &modules->list[modules->count++];
    *module = (peft_module){.site = part->site, .layer = part->layer};
    return module;
}

static void add_part(peft_modules *modules, const ck_part *part) {
    peft_module *module = module_of(modules, part);
    if (part->factor == CK_FACTOR_B) {
        module->b[module->n_parts - 1] = *part;
        module->out = part->columns;
        return;
    }
    module->a[module->n_parts++] = *part;
    module->rank += part->rows;
    module->in = part->columns;
}

peft_modules peft_modules_of(const ck_shape *shape, int expert) {
    peft_modules modules = {.list = calloc((size_t)ck_part_count(shape) + 1, sizeof *modules.list)};
    for (int32_t i = 0; modules.list && i < ck_part_count(shape); i++) {
        ck_part part = ck_part_at(shape, i);
        bool in_layers = part.factor != CK_FACTOR_ROUTER && part.adapter != CK_TIED;
        if (in_layers && (part.expert == expert || part.expert < 0)) add_part(&modules, &part);
    }
    for (int i = 0; i < modules.count; i++) {
        peft_module *m = &modules.list[i];
        m->at_a = modules.floats;
        m->at_b = m->at_a + (int64_t)m->rank * m->in;
        modules.floats = m->at_b + (int64_t)m->rank * m->out;
    }
    return modules;
}

packed_tensor peft_tensor(const ck_shape *shape, const peft_module *module, ck_factor factor) {
    ck_part whole = {.site = module->site,
                     .factor = factor,
                     .rows = module->rank,
                     .columns = factor == CK_FACTOR_A ? module->in : module->out,
                     .offset = factor == CK_FACTOR_A ? module->at_a : module->at_b};
    packed_tensor tensor = packed_part(&whole);
    snprintf(tensor.name, sizeof tensor.name, "base_model.model.%s.%d.%s.lora_%c.weight",
             peft_is_gpt2(shape) ? "transformer.h" : "model.layers", module->layer,
             peft_module_name(shape, module->site), factor == CK_FACTOR_A ? 'A' : 'B');
    return tensor;
}
