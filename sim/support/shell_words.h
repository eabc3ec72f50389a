/* shell_words.h - paths in commands that a user copies from a message. */
#ifndef COHORT_SHELL_WORDS_H
#define COHORT_SHELL_WORDS_H

/* `text` and `more` joined, as one word for a shell: in single quotes, whatever they contain. Owned by the
 * caller. */
char *shell_word(const char *text, const char *more);

#endif
