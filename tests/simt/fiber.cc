#include "fiber.hpp"

#include <stdint.h>

#if defined(__SANITIZE_ADDRESS__)
#define SIMT_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIMT_ADDRESS_SANITIZER 1
#endif
#endif
#ifdef SIMT_ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#ifdef SIMT_UCONTEXT

/* makecontext passes ints only. */
static void enter(unsigned entry_high, unsigned entry_low, unsigned argument_high, unsigned argument_low) {
    uint64_t entry = (uint64_t)entry_high << 32 | entry_low,
             argument = (uint64_t)argument_high << 32 | argument_low;
    reinterpret_cast<void (*)(void *)>((uintptr_t)entry)(reinterpret_cast<void *>((uintptr_t)argument));
}

static void prepare(simt_fiber *fiber, char *low, size_t bytes, void (*entry)(void *), void *argument) {
    uint64_t e = (uint64_t) reinterpret_cast<uintptr_t>(entry),
             a = (uint64_t) reinterpret_cast<uintptr_t>(argument);
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = low;
    fiber->context.uc_stack.ss_size = bytes;
    fiber->context.uc_link = nullptr;
    makecontext(&fiber->context, reinterpret_cast<void (*)()>(enter), 4, (unsigned)(e >> 32), (unsigned)e,
                (unsigned)(a >> 32), (unsigned)a);
}

static void change(simt_fiber *from, simt_fiber *to) {
    swapcontext(&from->context, &to->context);
}

#else

extern "C" void simt_switch_stack(void **save, void *to);
extern "C" void simt_enter();

asm(R"(
.text
.globl simt_switch_stack
.type simt_switch_stack, @function
simt_switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    popq %rcx
    jmp *%rcx
.size simt_switch_stack, .-simt_switch_stack

.globl simt_enter
.type simt_enter, @function
simt_enter:
    movq %r13, %rdi
    xorl %ebp, %ebp
    call *%r12
    ud2
.size simt_enter, .-simt_enter
)");

/* The frame that simt_switch_stack pops: r15 r14 r13 r12 rbx rbp and the address to go to. */
static void prepare(simt_fiber *fiber, char *low, size_t bytes, void (*entry)(void *), void *argument) {
    uintptr_t top = (reinterpret_cast<uintptr_t>(low) + bytes) & ~(uintptr_t)15;
    /* the stack is 16-byte aligned where simt_enter calls */
    void **frame = reinterpret_cast<void **>(top) - 9;
    for (int i = 0; i < 8; i++) frame[i] = nullptr;
    frame[2] = argument;
    frame[3] = reinterpret_cast<void *>(entry);
    frame[6] = reinterpret_cast<void *>(simt_enter);
    fiber->stack_pointer = frame;
}

static void change(simt_fiber *from, simt_fiber *to) {
    simt_switch_stack(&from->stack_pointer, to->stack_pointer);
}

#endif

void simt_fiber_prepare(simt_fiber *fiber, void *stack_low, size_t stack_bytes, void (*entry)(void *),
                        void *argument) {
#ifdef SIMT_ADDRESS_SANITIZER
    /* an abandoned lane leaves its frames' red zones behind */
    __asan_unpoison_memory_region(stack_low, stack_bytes);
#endif
    fiber->stack_low = stack_low;
    fiber->stack_bytes = stack_bytes;
    fiber->shadow_stack = nullptr;
    prepare(fiber, static_cast<char *>(stack_low), stack_bytes, entry, argument);
}

void simt_fiber_switch(simt_fiber *from, simt_fiber *to) {
#ifdef SIMT_ADDRESS_SANITIZER
    __sanitizer_start_switch_fiber(&from->shadow_stack, to->stack_low, to->stack_bytes);
#endif
    change(from, to);
#ifdef SIMT_ADDRESS_SANITIZER
    __sanitizer_finish_switch_fiber(from->shadow_stack, nullptr, nullptr);
#endif
}

void simt_fiber_begin(simt_fiber *from) {
#ifdef SIMT_ADDRESS_SANITIZER
    __sanitizer_finish_switch_fiber(nullptr, &from->stack_low, &from->stack_bytes);
#else
    (void)from;
#endif
}
