/* problems.h - how everything in sim/ reports what went wrong: messages for the user, collected, printed by
 * main alone.
 *
 * A function that can fail takes a `problems *` and returns an exit_code; on failure it has added at least
 * one message that says what was wrong, where (file, line, key) and what would be right. Several messages may
 * be added before giving up, so that a user sees all of them at once. */
#ifndef COHORT_PROBLEMS_H
#define COHORT_PROBLEMS_H

#include <stdbool.h>
#include <stdio.h>

/* How a program ends: name, number, what help says of it. */
#define EXIT_CODES(ROW)                                                                                      \
    ROW(EXIT_OK, 0, "done")                                                                                  \
    ROW(EXIT_INPUT, 2, "the command, the configuration or the input data is wrong")                          \
    ROW(EXIT_ENVIRONMENT, 3, "this machine lacks something: memory, a GPU, a library, an instruction set")   \
    ROW(EXIT_RUN, 4,                                                                                         \
        "failed while running: a full disk, a lost process, a loss or a measurement gone wrong")             \
    ROW(EXIT_INTERRUPTED, 5, "interrupted by a signal, and saved: --resume goes on with a run")

#define EXIT_CODE_MEMBER(name, number, text) name = number,
typedef enum { EXIT_CODES(EXIT_CODE_MEMBER) } exit_code;
#undef EXIT_CODE_MEMBER

/* How sim/ does several things one after the other: what comes after a failure is not done, and the first
 * failure stays.
 *
 *     exit_code code = open_session(r, list);
 *     THEN(code, open_result(r, list));
 *     THEN(code, train(r, list));
 *     return code;
 *
 * The call is made only where `code` is 0 so far. Also for a ck_status; its value is that of `code`. */
#define THEN(code, call) ((code) = (code) == 0 ? (call) : (code))

void exit_codes_describe(FILE *out); /* the list above, a line each */
bool exit_code_is_known(int number);

typedef struct problems problems;

problems *problems_create(void); /* aborts the process only if a few hundred bytes cannot be had */
void problems_destroy(problems *list);

/* Adds a message (printf) and returns `code`, so that `return problem(list, EXIT_INPUT, ...)` reads well. */
exit_code problem(problems *list, exit_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts where they arose (printf) before all messages from index `first` on: a caller knows the line of what a
 * callee refused. */
void problems_prefix(problems *list, int first, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Forgets all messages from index `first` on: a caller goes another way where something was refused. */
void problems_drop(problems *list, int first);

int problems_count(const problems *list);
const char *problems_message(const problems *list, int index);
exit_code problems_code(const problems *list);                 /* the first message's code, EXIT_OK if none */
exit_code problems_code_from(const problems *list, int first); /* of the messages from index `first` on */

/* To be called before the messages are shown. A message that is there word for word is left out. Messages are
 * alike that say the same of different places: they are equal but for numbers and for all that stands before
 * the first ": ". Of many that are alike the first PROBLEMS_ALIKE are kept, and the last of these then ends with
 * how many were left out: "(and 65,532 more like it)". */
enum { PROBLEMS_ALIKE = 8 };
void problems_condense(problems *list);

#endif
