/* problems.c - the collected messages of a command. */
#include "support/problems.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXIT_CODE_ROW(name, number, text) {number, text},
static const struct {
    int number;
    const char *text;
} CODES[] = {EXIT_CODES(EXIT_CODE_ROW)};
enum { N_CODES = sizeof CODES / sizeof *CODES };

void exit_codes_describe(FILE *out) {
    fputs("Exit codes\n", out);
    for (int i = 0; i < N_CODES; i++) fprintf(out, "  %d  %s\n", CODES[i].number, CODES[i].text);
}

bool exit_code_is_known(int number) {
    for (int i = 0; i < N_CODES; i++)
        if (CODES[i].number == number) return true;
    return false;
}

typedef struct {
    exit_code code;
    char *text;    /* owned */
    size_t length; /* of the message itself, without what problems_condense() wrote behind it */
    int64_t more;  /* messages like it that were left out */
} entry;

struct problems {
    int count, capacity;
    entry *entries;
};

/* Without memory for a message there is no way left to report anything: the only place in sim/ that gives up.
 */
static void *must_have(void *memory) {
    if (!memory) abort();
    return memory;
}

problems *problems_create(void) {
    return must_have(calloc(1, sizeof(problems)));
}

void problems_destroy(problems *list) {
    if (!list) return;
    for (int i = 0; i < list->count; i++) free(list->entries[i].text);
    free(list->entries);
    free(list);
}

static char *format_text(const char *format, va_list arguments) {
    va_list again;
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, again);
    va_end(again);
    char *text = must_have(malloc((size_t)(length < 0 ? 0 : length) + 1));
    text[0] = '\0';
    if (length > 0) vsnprintf(text, (size_t)length + 1, format, arguments);
    return text;
}

exit_code problem(problems *list, exit_code code, const char *format, ...) {
    if (list->count == list->capacity) {
        list->capacity = list->capacity ? 2 * list->capacity : 8;
        list->entries = must_have(realloc(list->entries, (size_t)list->capacity * sizeof *list->entries));
    }
    va_list arguments;
    va_start(arguments, format);
    char *text = format_text(format, arguments);
    va_end(arguments);
    list->entries[list->count++] = (entry){.code = code, .text = text, .length = strlen(text)};
    return code;
}

void problems_drop(problems *list, int first) {
    while (list->count > first) free(list->entries[--list->count].text);
}

void problems_prefix(problems *list, int first, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    char *prefix = format_text(format, arguments);
    va_end(arguments);
    size_t length = strlen(prefix);
    for (int i = first; i < list->count; i++) {
        size_t bytes = strlen(list->entries[i].text) + 1;
        char *text = must_have(realloc(list->entries[i].text, length + bytes));
        memmove(text + length, text, bytes);
        memcpy(text, prefix, length);
        list->entries[i].text = text;
        list->entries[i].length += length;
    }
    free(prefix);
}

int problems_count(const problems *list) {
    return list->count;
}

const char *problems_message(const problems *list, int index) {
    return list->entries[index].text;
}

exit_code problems_code(const problems *list) {
    return list->count ? list->entries[0].code : EXIT_OK;
}

exit_code problems_code_from(const problems *list, int first) {
    return first < list->count ? list->entries[first].code : EXIT_OK;
}

/* ---- Floods ---- */

/* Behind the place that a message begins with. */
static const char *what_it_says(const entry *e) {
    const char *colon = strstr(e->text, ": ");
    return colon && colon < e->text + e->length ? colon : e->text;
}

static const char *skip_digits(const char *text) {
    while (isdigit((unsigned char)*text)) text++;
    return text;
}

static bool alike(const entry *a, const entry *b) {
    const char *x = what_it_says(a), *y = what_it_says(b), *x_end = a->text + a->length,
               *y_end = b->text + b->length;
    for (;; x++, y++) {
        if (isdigit((unsigned char)*x) && isdigit((unsigned char)*y)) x = skip_digits(x), y = skip_digits(y);
        if (x >= x_end || y >= y_end) return x >= x_end && y >= y_end;
        if (*x != *y) return false;
    }
}

/* 65532 as "65,532". */
static void put_thousands(int64_t number, char out[32]) {
    char digits[24];
    int n = snprintf(digits, sizeof digits, "%lld", (long long)number);
    for (int i = 0; i < n; i++) {
        if (i > 0 && (n - i) % 3 == 0) *out++ = ',';
        *out++ = digits[i];
    }
    *out = '\0';
}

static void say_how_many_more(entry *e) {
    enum { ROOM = 64 };
    char number[32];
    put_thousands(e->more, number);
    e->text = must_have(realloc(e->text, e->length + ROOM));
    snprintf(e->text + e->length, ROOM, " (and %s more like it)", number);
}

void problems_condense(problems *list) {
    int kept = 0;
    for (int i = 0; i < list->count; i++) {
        entry e = list->entries[i], *last = NULL;
        int before = 0;
        bool said = false;
        for (int j = 0; j < kept; j++) said |= e.more == 0 && strcmp(list->entries[j].text, e.text) == 0;
        for (int j = 0; j < kept; j++)
            if (alike(&list->entries[j], &e)) last = &list->entries[j], before++;
        if (said)
            free(e.text);
        else if (before < PROBLEMS_ALIKE) {
            list->entries[kept++] = e;
        } else {
            last->more += 1 + e.more;
            free(e.text);
        }
    }
    list->count = kept;
    for (int i = 0; i < kept; i++)
        if (list->entries[i].more > 0) say_how_many_more(&list->entries[i]);
}
