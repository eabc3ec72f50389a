#include "stop_signals.h"

#include <stddef.h>

static const int STOP_SIGNALS[N_STOP_SIGNALS] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2};

bool stop_signal_is_warning(int number) {
    return number == SIGUSR1 || number == SIGUSR2;
}

void stop_signals_catch(void (*handler)(int), stop_signals_rule rule, stop_signals_before *before) {
    for (int i = 0; i < N_STOP_SIGNALS; i++) {
        int number = STOP_SIGNALS[i];
        struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART}, *old = &before->actions[i];
        if (rule == STOP_SECOND_ENDS && !stop_signal_is_warning(number)) action.sa_flags |= (int)SA_RESETHAND;
        sigemptyset(&action.sa_mask);
        sigaction(number, &action, old);
        if (number == SIGHUP && old->sa_handler == SIG_IGN) sigaction(number, old, NULL);
    }
}

void stop_signals_release(const stop_signals_before *before) {
    for (int i = 0; i < N_STOP_SIGNALS; i++) sigaction(STOP_SIGNALS[i], &before->actions[i], NULL);
}
