/* Words that a user pastes into a shell arrive as they were. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/shell_words.h"

Test(shell_words, a_shell_reads_what_was_meant) {
    const char *const texts[] = {"results/a",           "",      "it's",      "'", "''", "a b",
                                 "$HOME `x` \\ \" * ?", "--out", "line\nline"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        char command[256], read[256], expected[256];
        char *word = shell_word(texts[i], "/o'clock.yaml");
        snprintf(command, sizeof command, "printf %%s %s", word);
        snprintf(expected, sizeof expected, "%s/o'clock.yaml", texts[i]);
        FILE *shell = popen(command, "r");
        cr_assert_not_null(shell);
        read[fread(read, 1, sizeof read - 1, shell)] = '\0';
        cr_assert_eq(pclose(shell), 0);
        cr_expect_str_eq(read, expected, "%s", word);
        free(word);
    }
}
