/* What the CPU backend promises to the bit: a device's losses and gradients depend on its own text and
 * parameters alone, whatever wave, neighbours, order, thread count and repetition.
 * tests/conformance/environments.txt repeats this under other OpenBLAS cores. */
#include <criterion/criterion.h>
#include <math.h>

#include "conformance/bits.h"

static bits_world *world;
static verdict c;

static void open_gpt2(void) {
    world = bits_create(CK_MLP_GELU);
}

static void open_llama(void) {
    world = bits_create(CK_MLP_SWIGLU);
}

static void close_world(void) {
    bits_destroy(world);
}

TestSuite(bits, .init = open_gpt2, .fini = close_world);
TestSuite(bits_of_a_llama, .init = open_llama, .fini = close_world);

/* The same test on both bases. */
#define BITS(name)                                                                                           \
    static void name(void);                                                                                  \
    Test(bits, name) {                                                                                       \
        name();                                                                                              \
    }                                                                                                        \
    Test(bits_of_a_llama, name) {                                                                            \
        name();                                                                                              \
    }                                                                                                        \
    static void name(void)

static ck_backend *open_threads(int threads) {
    ck_backend *backend;
    cr_assert(ck_open("cpu", threads, &backend) == CK_OK, "%s", ck_last_error(NULL));
    return backend;
}

static void step(int threads, const int *order, int n, int spoil, bits_result *results) {
    ck_backend *backend = open_threads(threads);
    bits_step(world, backend, order, n, spoil, results, &c);
    ck_close(backend);
    cr_assert(c.failures == 0, "%s", c.message);
}

static void in_order(int *order, bool reversed) {
    for (int i = 0; i < BITS_DEVICES; i++) order[i] = reversed ? BITS_DEVICES - 1 - i : i;
}

/* The reference of most tests: everybody in one wave, in order, on one thread. */
static void everybody(bits_result *results) {
    int order[BITS_DEVICES];
    in_order(order, false);
    step(1, order, BITS_DEVICES, -1, results);
}

static bool all_finite(const bits_result *r) {
    for (int64_t i = 0; i < r->count; i++)
        if (!isfinite(r->values[i])) return false;
    return r->count > 0;
}

BITS(the_same_run_twice) {
    bits_result first[BITS_DEVICES], second[BITS_DEVICES];
    everybody(first);
    everybody(second);
    for (int d = 0; d < BITS_DEVICES; d++) {
        cr_expect(all_finite(&first[d]), "device %d gave a value that is not finite", d);
        cr_expect(bits_equal(&first[d], &second[d]), "device %d differs", d);
    }
    bits_free(first, BITS_DEVICES);
    bits_free(second, BITS_DEVICES);
}

BITS(alone_or_among_a_hundred) {
    bits_result together[BITS_DEVICES], alone;
    everybody(together);
    for (int d = 0; d < BITS_DEVICES; d++) {
        step(1, &d, 1, -1, &alone);
        cr_expect(bits_equal(&together[d], &alone), "device %d alone differs from itself among the others",
                  d);
        bits_free(&alone, 1);
    }
    bits_free(together, BITS_DEVICES);
}

BITS(the_order_of_neighbours) {
    bits_result forward[BITS_DEVICES], backward[BITS_DEVICES];
    int order[BITS_DEVICES];
    everybody(forward);
    in_order(order, true);
    step(1, order, BITS_DEVICES, -1, backward);
    for (int i = 0; i < BITS_DEVICES; i++)
        cr_expect(bits_equal(&backward[i], &forward[order[i]]), "device %d differs", order[i]);
    bits_free(forward, BITS_DEVICES);
    bits_free(backward, BITS_DEVICES);
}

BITS(the_number_of_threads) {
    bits_result one[BITS_DEVICES], many[BITS_DEVICES];
    int order[BITS_DEVICES];
    everybody(one);
    in_order(order, false);
    for (int threads = 2; threads <= 3; threads++) {
        step(threads, order, BITS_DEVICES, -1, many);
        for (int d = 0; d < BITS_DEVICES; d++)
            cr_expect(bits_equal(&one[d], &many[d]), "device %d differs on %d threads", d, threads);
        bits_free(many, BITS_DEVICES);
    }
    bits_free(one, BITS_DEVICES);
}

/* Waves of 1, 2, 3 ... devices, with a stride, on two threads. */
BITS(how_devices_are_assigned_to_waves) {
    bits_result together[BITS_DEVICES], part[BITS_DEVICES];
    int order[BITS_DEVICES];
    everybody(together);
    for (int i = 0; i < BITS_DEVICES; i++) order[i] = 37 * i % BITS_DEVICES;
    for (int first = 0, size = 1; first < BITS_DEVICES; first += size++) {
        int n = size < BITS_DEVICES - first ? size : BITS_DEVICES - first;
        step(2, order + first, n, -1, part);
        for (int i = 0; i < n; i++)
            cr_expect(bits_equal(&part[i], &together[order[first + i]]), "device %d differs in a wave of %d",
                      order[first + i], n);
        bits_free(part, n);
    }
    bits_free(together, BITS_DEVICES);
}

BITS(a_faulty_neighbour) {
    enum { SICK = 43 }; /* of a shape with a router */
    bits_result well[BITS_DEVICES], beside[BITS_DEVICES];
    int order[BITS_DEVICES];
    everybody(well);
    in_order(order, false);
    step(2, order, BITS_DEVICES, SICK, beside);
    for (int d = 0; d < BITS_DEVICES; d++) {
        if (d == SICK)
            cr_expect(beside[d].fault == 1, "fault of the device with a NaN router in layer 1: %d",
                      beside[d].fault);
        else
            cr_expect(bits_equal(&well[d], &beside[d]), "device %d was touched by its neighbour's fault", d);
    }
    bits_free(well, BITS_DEVICES);
    bits_free(beside, BITS_DEVICES);
}

BITS(different_devices_differ) {
    /* That the comparison can fail: device 0 and device 7 have the same shape and number of values, not the
     * same numbers. */
    bits_result results[BITS_DEVICES];
    everybody(results);
    bits_result changed = results[0];
    changed.values = results[7].values;
    cr_expect(!bits_equal(&results[0], &changed));
    bits_free(results, BITS_DEVICES);
}

static void decode(int threads, const int *order, int n, bits_result *results) {
    ck_backend *backend = open_threads(threads);
    bits_decode(world, backend, order, n, results, &c);
    ck_close(backend);
    cr_assert(c.failures == 0, "%s", c.message);
}

BITS(decoding_alone_or_among_a_hundred) {
    bits_result together[BITS_DEVICES], alone;
    int order[BITS_DEVICES];
    in_order(order, false);
    decode(2, order, BITS_DEVICES, together);
    for (int d = 0; d < BITS_DEVICES; d++) {
        decode(1, &d, 1, &alone);
        cr_expect(all_finite(&alone), "device %d gave a logit that is not finite", d);
        cr_expect(bits_equal(&together[d], &alone), "device %d decodes otherwise alone than among the others",
                  d);
        bits_free(&alone, 1);
    }
    /* that the comparison can fail */
    alone = together[0];
    alone.values = together[7].values;
    cr_expect(!bits_equal(&together[0], &alone));
    bits_free(together, BITS_DEVICES);
}

BITS(decoding_on_any_number_of_threads) {
    bits_result one[BITS_DEVICES], many[BITS_DEVICES];
    int order[BITS_DEVICES];
    in_order(order, true);
    decode(1, order, BITS_DEVICES, one);
    for (int threads = 2; threads <= 5; threads++) {
        decode(threads, order, BITS_DEVICES, many);
        for (int d = 0; d < BITS_DEVICES; d++)
            cr_expect(bits_equal(&one[d], &many[d]), "device %d decodes otherwise on %d threads", order[d],
                      threads);
        bits_free(many, BITS_DEVICES);
    }
    bits_free(one, BITS_DEVICES);
}

BITS(pretraining_on_any_number_of_threads) {
    bits_result one = {0};
    for (int threads = 1; threads <= 3; threads++) {
        ck_backend *backend = open_threads(threads);
        bits_result result = bits_pretraining(world, backend, &c);
        ck_close(backend);
        cr_assert(c.failures == 0, "%s", c.message);
        if (threads == 1) {
            one = result;
            continue;
        }
        cr_expect(bits_equal(&one, &result), "%d threads differ from one", threads);
        bits_free(&result, 1);
    }
    bits_free(&one, 1);
}
