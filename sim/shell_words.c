#include "shell_words.h"

#include <stdlib.h>
#include <string.h>

/* A quote cannot stand within quotes: it ends them, stands alone, escaped, and they begin anew. */
static char *append(char *to, const char *text) {
    for (; *text; text++) {
        if (*text == '\'')
            to = stpcpy(to, "'\\''");
        else
            *to++ = *text;
    }
    return to;
}

char *shell_word(const char *text, const char *more) {
    char *word = malloc(4 * (strlen(text) + strlen(more)) + 3), *to = word;
    if (!word) abort(); /* as problems.c: no memory for a message */
    *to++ = '\'';
    to = append(append(to, text), more);
    strcpy(to, "'");
    return word;
}
