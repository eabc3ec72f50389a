/* instructions.h - whether this CPU has the instructions that this program was compiled for. A program that
 * runs on a CPU without them would end with "Illegal instruction", at some later moment.
 *
 * Two files answer: instructions_wanted.c, compiled with the flags of all others, has a table of what these
 * flags allow and nothing that runs; instructions.c, compiled for any CPU of the architecture, compares.
 * main() asks first of all, and is compiled for any CPU too. */
#ifndef COHORT_INSTRUCTIONS_H
#define COHORT_INSTRUCTIONS_H

/* The name that compilers know a set of instructions by, and the macro that they define where they may use
 * it. */
#if defined __x86_64__
/* clang-format off */
#define INSTRUCTION_SETS(ROW) \
    ROW("sse3", __SSE3__) ROW("ssse3", __SSSE3__) ROW("sse4.1", __SSE4_1__) ROW("sse4.2", __SSE4_2__) \
    ROW("popcnt", __POPCNT__) ROW("avx", __AVX__) ROW("avx2", __AVX2__) ROW("fma", __FMA__) \
    ROW("bmi", __BMI__) ROW("bmi2", __BMI2__) ROW("sse4a", __SSE4A__) ROW("fma4", __FMA4__) \
    ROW("xop", __XOP__) ROW("avx512f", __AVX512F__) ROW("avx512cd", __AVX512CD__) \
    ROW("avx512vl", __AVX512VL__) ROW("avx512bw", __AVX512BW__) ROW("avx512dq", __AVX512DQ__) \
    ROW("avx512ifma", __AVX512IFMA__) ROW("avx512vbmi", __AVX512VBMI__) \
    ROW("avx512vbmi2", __AVX512VBMI2__) ROW("avx512vnni", __AVX512VNNI__) \
    ROW("avx512bitalg", __AVX512BITALG__) ROW("avx512vpopcntdq", __AVX512VPOPCNTDQ__) \
    ROW("gfni", __GFNI__) ROW("vpclmulqdq", __VPCLMULQDQ__)
/* clang-format on */
#else
#define INSTRUCTION_SETS(ROW) /* not known: a program is built where it runs */
#endif

/* One text for each set, in the order of the list: "1" where the compiler may use it. */
extern const char *const ck_instructions_wanted[];

/* What the program may use and this CPU lacks, as "avx2, fma"; NULL if nothing. Static. */
const char *ck_instructions_missing(void);

#endif
