/* Asynchronous copies and the rows of matrices, as the simulated machine checks them. */
#include "expect.hpp"

enum copy_fault {
    COPY_RIGHT,
    COPY_UNWAITED,
    COPY_FORGOTTEN,
    COPY_NEWEST_USED,
    COPY_WITHOUT_BARRIER,
    COPY_UNCOMMITTED
};

/* Two groups of one row each, reversed through shared memory. */
static void copy_rows(global<const float> in, global<float> out, copy_fault fault) {
    CK_SHARED(float, rows, 64);
    int lane = (int)threadIdx.x;
    cp_async<4>(rows + lane, in + lane);
    cp_async_commit();
    if (fault == COPY_FORGOTTEN) return;
    cp_async<4>(rows + (32 + lane), in + (32 + lane));
    if (fault != COPY_UNCOMMITTED) cp_async_commit();
    if (fault == COPY_NEWEST_USED)
        cp_async_wait<1>();
    else if (fault != COPY_UNWAITED)
        cp_async_wait<0>();
    if (fault != COPY_WITHOUT_BARRIER) __syncthreads();
    out[lane] = rows[31 - lane];
    out[32 + lane] = rows[63 - lane];
    cp_async_wait<0>();
}

static const char *copy_with(copy_fault fault, buffer<float> *out) {
    buffer<float> in(64);
    for (int i = 0; i < 64; i++) in.data[i] = (float)(i + 1);
    return CK_LAUNCH(copy_rows, 1, 32, 0, nullptr, global<const float>(in.data), global<float>(out->data),
                     fault);
}

static void a_missing_wait_is_caught() {
    buffer<float> out(64);
    expect_fine(copy_with(COPY_RIGHT, &out));
    expect_failure(copy_with(COPY_UNWAITED, &out), SIMT_ASYNC_COPY, "reads rows while an asynchronous copy");
    expect_failure(copy_with(COPY_NEWEST_USED, &out), SIMT_ASYNC_COPY,
                   "reads rows while an asynchronous copy");
    expect_failure(copy_with(COPY_UNCOMMITTED, &out), SIMT_ASYNC_COPY,
                   "reads rows while an asynchronous copy");
    expect_failure(copy_with(COPY_FORGOTTEN, &out), SIMT_ASYNC_COPY, "never waited for");
    expect_failure(copy_with(COPY_WITHOUT_BARRIER, &out), SIMT_RACE, "shared memory");
}

/* Rows of 24, an address of each off by `offset` elements. */
static void load_matrix(int offset) {
    CK_SHARED(bf16, tile, 16 * 24 + 8);
    uint32_t d[2];
    for (int i = (int)threadIdx.x; i < 16 * 24 + 8; i += 32) tile[i] = to_bf16(1);
    __syncwarp();
    ldmatrix_x2(d, tile + ((int)threadIdx.x % 16 * 24 + offset));
}

static void rows_of_matrices_must_be_aligned() {
    expect_fine(CK_LAUNCH(load_matrix, 1, 32, 0, nullptr, 8));
    expect_failure(CK_LAUNCH(load_matrix, 1, 32, 0, nullptr, 1), SIMT_MISALIGNED, "multiple of 16");
    expect_failure(CK_LAUNCH(load_matrix, 1, 32, 0, nullptr, 32), SIMT_OUT_OF_BOUNDS, "reads 16 bytes",
                   "tile");
}

#define TEST(name)                                                                                           \
    { #name, name }
static const tap_test tests[] = {
    TEST(a_missing_wait_is_caught),
    TEST(rows_of_matrices_must_be_aligned),
};

int main(int argc, char **argv) {
    return tap_main(argc, argv, "copies", tests, (int)(sizeof tests / sizeof *tests));
}
