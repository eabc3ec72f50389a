/* nearest.c - edit distance (optimal string alignment). */
#include "config/nearest.h"

#include <stddef.h>
#include <string.h>

enum { MAX_WORD = 63 };

static int least_of(int a, int b) {
    return a < b ? a : b;
}

int edit_distance(const char *a, const char *b) {
    int rows[3][MAX_WORD + 1]; /* of prefix lengths i - 2, i - 1, i of a; rotating */
    size_t n = strlen(a), m = strlen(b);
    if (n > MAX_WORD || m > MAX_WORD) return MAX_WORD + 1;
    for (size_t j = 0; j <= m; j++) rows[0][j] = (int)j;
    for (size_t i = 1; i <= n; i++) {
        int *now = rows[i % 3], *before = rows[(i + 2) % 3], *before_that = rows[(i + 1) % 3];
        now[0] = (int)i;
        for (size_t j = 1; j <= m; j++) {
            int replaced = before[j - 1] + (a[i - 1] != b[j - 1]);
            now[j] = least_of(replaced, least_of(before[j], now[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                now[j] = least_of(now[j], before_that[j - 2] + 1);
        }
    }
    return rows[n % 3][m];
}

const char *nearest_word(const char *typed, const char *const *words, int count) {
    const char *best = NULL;
    int least = 1 + (int)strlen(typed) / 2;
    for (int i = 0; i < count; i++) {
        int distance = edit_distance(typed, words[i]);
        if (distance > least || (best && distance == least)) continue;
        best = words[i];
        least = distance;
    }
    return best;
}
