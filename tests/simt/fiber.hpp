/* fiber.hpp - a lane's own stack and the switch between two of them.
 *
 * The switch saves what the calling convention asks a callee to keep and changes the stack pointer: no system
 * call, so a lane's turn costs tens of nanoseconds. Elsewhere than x86-64 ucontext does the same, at half a
 * microsecond (its signal mask is a system call). */
#ifndef COHORT_SIMT_FIBER_HPP
#define COHORT_SIMT_FIBER_HPP

#include <stddef.h>

#if !defined(__x86_64__) && !defined(SIMT_UCONTEXT)
#define SIMT_UCONTEXT 1
#endif
#ifdef SIMT_UCONTEXT
#include <ucontext.h>
#endif

struct simt_fiber {
#ifdef SIMT_UCONTEXT
    ucontext_t context;
#else
    void *stack_pointer;
#endif
    const void *stack_low; /* lowest address, and size: AddressSanitizer must be told of a change of stack */
    size_t stack_bytes;
    void *shadow_stack; /* AddressSanitizer's, while this fiber is not running */
};

/* entry(argument) begins at the first switch to the fiber, and must never return. */
void simt_fiber_prepare(simt_fiber *fiber, void *stack_low, size_t stack_bytes, void (*entry)(void *),
                        void *argument);
void simt_fiber_switch(simt_fiber *from, simt_fiber *to);
/* The first thing that `entry` does: `from` is the fiber that was left, and learns its stack. */
void simt_fiber_begin(simt_fiber *from);

#endif
