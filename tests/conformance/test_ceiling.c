/* What shares and floors refer to: the best of all products there are, never more than the multiply-adds that
 * the processor can do. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "kernels.h"

static ck_ceiling ceiling_of(int threads) {
    ck_backend *backend;
    cr_assert_eq(ck_open("cpu", threads, &backend), CK_OK);
    ck_ceiling c = ck_measure_ceiling(backend, CK_F32);
    ck_close(backend);
    return c;
}

Test(ceiling, of_a_cpu_has_a_product_a_peak_and_a_name) {
    ck_ceiling c = ceiling_of(1);
    cr_expect(c.product > 1e8, "a product of %g FLOP/s", c.product);
    cr_expect(c.fma >= c.product, "a peak of %g FLOP/s, below the product's %g", c.fma, c.product);
    cr_expect(c.fma < 1e12, "a peak of %g FLOP/s on one thread", c.fma);
    cr_expect(strlen(c.product_of) > 0);
    cr_expect_eq(c.threads, 1);
}

/* The same processor by another way. */
Test(ceiling, the_processor_is_named) {
    ck_backend *backend;
    char line[256], name[256] = "";
    FILE *file = fopen("/proc/cpuinfo", "r");
    while (file && !name[0] && fgets(line, sizeof line, file)) sscanf(line, "model name : %255[^\n]", name);
    if (file) fclose(file);
    cr_assert_eq(ck_open("cpu", 1, &backend), CK_OK);
    cr_expect(strncmp(ck_hardware(backend), name, strlen(name)) == 0, "'%s' instead of '%s'",
              ck_hardware(backend), name);
    cr_expect(strstr(ck_hardware(backend), ", 1 thread, OpenBLAS ") != NULL, "'%s'", ck_hardware(backend));
    ck_close(backend);
}

Test(ceiling, takes_little_memory_of_each_thread) {
    ck_backend *one, *many;
    cr_assert_eq(ck_open("cpu", 1, &one), CK_OK);
    cr_assert_eq(ck_open("cpu", 16, &many), CK_OK);
    size_t least = ck_ceiling_bytes(one);
    cr_expect(least > 0 && least <= 2 << 20, "%zu bytes for one thread", least);
    cr_expect(ck_ceiling_bytes(many) <= least + (15 << 20), "%zu bytes for 16 threads",
              ck_ceiling_bytes(many));
    ck_close(one);
    ck_close(many);
}
