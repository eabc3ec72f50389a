#include "warp.hpp"

static const uint32_t FULL = 0xffffffffu;

static bool in_mask(uint32_t mask, int lane) {
    return lane >= 0 && lane < SIMT_WARP && (mask >> lane & 1);
}

/* ---- Shuffles and votes */

struct shuffle_in {
    uint64_t bits;
    int source;
};

static void complete_shuffle(simt_lane *lanes, uint32_t mask) {
    for (int l = 0; l < SIMT_WARP; l++) {
        if (!in_mask(mask, l)) continue;
        int source = static_cast<const shuffle_in *>(lanes[l].in)->source;
        if (!in_mask(mask, source))
            simt_fail(SIMT_WARP_OP,
                      "finishes %s of mask %08x (line %d), in which lane %d asks for the value of lane %d, "
                      "which is not there",
                      lanes[l].operation, mask, lanes[l].site.line, lanes[l].index, source);
        *static_cast<uint64_t *>(lanes[l].out) = static_cast<const shuffle_in *>(lanes[source].in)->bits;
    }
}

uint64_t simt_shuffle(uint32_t mask, const char *operation, uint64_t bits, int source, simt_site site) {
    shuffle_in in = {bits, source};
    uint64_t out = 0;
    simt_meet(mask, operation, complete_shuffle, &in, &out, site);
    return out;
}

static void complete_ballot(simt_lane *lanes, uint32_t mask) {
    uint32_t votes = 0;
    for (int l = 0; l < SIMT_WARP; l++) {
        if (in_mask(mask, l) && *static_cast<const bool *>(lanes[l].in)) votes |= (uint32_t)1 << l;
    }
    for (int l = 0; l < SIMT_WARP; l++) {
        if (in_mask(mask, l)) *static_cast<uint32_t *>(lanes[l].out) = votes;
    }
}

uint32_t simt_ballot(uint32_t mask, const char *operation, bool vote, simt_site site) {
    uint32_t out = 0;
    simt_meet(mask, operation, complete_ballot, &vote, &out, site);
    return out;
}

/* ---- Matrix products. Lane 4 g + t holds, of a: rows g and g + 8, columns 2t, 2t+1, 2t+8, 2t+9; of b: these
 * rows, column g; of d: rows g and g + 8, columns 2t, 2t+1. */

struct mma_in {
    float a[8], b[4];
};

struct matrices {
    float a[16][16], b[16][8];
};

static void collect(const simt_lane *lanes, matrices *m) {
    for (int l = 0; l < SIMT_WARP; l++) {
        const mma_in *in = static_cast<const mma_in *>(lanes[l].in);
        int g = l / 4, t = l % 4;
        for (int i = 0; i < 8; i++) m->a[g + 8 * (i / 2 % 2)][2 * t + i % 2 + 8 * (i / 4)] = in->a[i];
        for (int i = 0; i < 4; i++) m->b[2 * t + i % 2 + 8 * (i / 2)][g] = in->b[i];
    }
}

static void distribute(simt_lane *lanes, const float product[16][8]) {
    for (int l = 0; l < SIMT_WARP; l++) {
        float *d = static_cast<float *>(lanes[l].out);
        for (int i = 0; i < 4; i++) d[i] += product[l / 4 + 8 * (i / 2)][l % 4 * 2 + i % 2];
    }
}

static void multiply(const float a[16][16], const float b[16][8], int first, int last, float sum[16][8]) {
    for (int i = 0; i < 16; i++) {
        for (int k = first; k < last; k++) {
            for (int j = 0; j < 8; j++) sum[i][j] += a[i][k] * b[k][j];
        }
    }
}

static void complete_bf16(simt_lane *lanes, uint32_t) {
    matrices m;
    float product[16][8] = {};
    collect(lanes, &m);
    multiply(m.a, m.b, 0, 16, product);
    distribute(lanes, product);
}

void mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2], const char *file, int line) {
    mma_in in;
    for (int i = 0; i < 4; i++) in.a[2 * i] = unpack_bf16(a[i]).x, in.a[2 * i + 1] = unpack_bf16(a[i]).y;
    for (int i = 0; i < 2; i++) in.b[2 * i] = unpack_bf16(b[i]).x, in.b[2 * i + 1] = unpack_bf16(b[i]).y;
    simt_meet(FULL, "mma_bf16", complete_bf16, &in, d, SIMT_HERE);
}

/* Round to nearest, ties away from zero, as cvt.rna.tf32.f32: 10 bits of mantissa remain. */
static float to_tf32(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7f800000u) != 0x7f800000u) bits = (bits + 0x1000u) & ~0x1fffu;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void split(const float *values, int count, float *high, float *low) {
    for (int i = 0; i < count; i++) {
        high[i] = to_tf32(values[i]);
        low[i] = to_tf32(values[i] - high[i]);
    }
}

static void complete_f32(simt_lane *lanes, uint32_t) {
    matrices m, high, low;
    float product[16][8] = {};
    collect(lanes, &m);
    split(&m.a[0][0], 256, &high.a[0][0], &low.a[0][0]);
    split(&m.b[0][0], 128, &high.b[0][0], &low.b[0][0]);
    for (int k = 0; k < 16; k += 8) {
        multiply(low.a, high.b, k, k + 8, product);
        multiply(high.a, low.b, k, k + 8, product);
        multiply(high.a, high.b, k, k + 8, product);
    }
    distribute(lanes, product);
}

void mma_f32(float d[4], const float a[8], const float b[4], const char *file, int line) {
    mma_in in;
    memcpy(in.a, a, sizeof in.a);
    memcpy(in.b, b, sizeof in.b);
    simt_meet(FULL, "mma_f32", complete_f32, &in, d, SIMT_HERE);
}

/* ---- ldmatrix: lane 4 g + t receives of each matrix row g, columns 2t and 2t+1 (transposed: column g, rows
 * 2t and 2t+1). */

struct matrix_row {
    uint16_t value[8];
    int matrices;
    bool transposed;
};

static void complete_ldmatrix(simt_lane *lanes, uint32_t) {
    const matrix_row *rows[SIMT_WARP];
    for (int l = 0; l < SIMT_WARP; l++) rows[l] = static_cast<const matrix_row *>(lanes[l].in);
    for (int l = 0; l < SIMT_WARP; l++) {
        for (int i = 0; i < rows[l]->matrices; i++) {
            int g = l / 4, t = l % 4 * 2;
            uint16_t first = rows[l]->transposed ? rows[8 * i + t]->value[g] : rows[8 * i + g]->value[t];
            uint16_t second =
                rows[l]->transposed ? rows[8 * i + t + 1]->value[g] : rows[8 * i + g]->value[t + 1];
            static_cast<uint32_t *>(lanes[l].out)[i] = first | (uint32_t)second << 16;
        }
    }
}

void simt_ldmatrix(uint32_t *d, int count, bool transposed, shared<const bf16> row, simt_site site) {
    matrix_row in = {{0}, count, transposed};
    if (simt_lane_of_warp() < 8 * count) {
        uint4 words = load_as<uint4>(row);
        memcpy(in.value, &words, sizeof in.value);
    }
    static const char *const names[2][2] = {{"ldmatrix_x2", "ldmatrix_x2_trans"},
                                            {"ldmatrix_x4", "ldmatrix_x4_trans"}};
    simt_meet(FULL, names[count == 4][transposed], complete_ldmatrix, &in, d, site);
}
