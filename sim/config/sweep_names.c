#include "config/sweep_names.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static const setting_row *row_of(const char *key, size_t length) {
    char path[MAX_KEY];
    snprintf(path, sizeof path, "%.*s", (int)length, key);
    return table_find(path, true);
}

/* ---- Templates ---- */

static bool check_key(const node *written, const char *key, size_t length, problems *list) {
    char path[MAX_KEY], label[MAX_KEY + 16];
    snprintf(path, sizeof path, "%.*s", (int)length, key);
    snprintf(label, sizeof label, "sweep.name: {%s}", path);
    const setting_row *row = walk_key_of_population(path, written->where, label, list);
    if (!row) return false;
    bool is_name = strcmp(path, "name") == 0;
    if (row->type != VALUE_SEEDS && !is_name) return true;
    problem_at(list, written->where, label, "%s",
               is_name ? "is what is being made; write other keys" : "has no single value; write {seed}");
    return false;
}

bool sweep_name_check(const node *written, problems *list) {
    bool good = true;
    if (!written) return true;
    if (written->kind != NODE_SCALAR || written->text[0] == '\0') {
        problem_at(list, written->where, "sweep.name",
                   "must be a text with keys in braces: \"{method}-a{data.dirichlet}\"");
        return false;
    }
    for (const char *at = written->text + strcspn(written->text, "{}"); *at; at += strcspn(at, "{}")) {
        size_t length = strcspn(at + 1, "{}");
        if (*at == '}' || at[1 + length] != '}') {
            problem_at(list, written->where, "sweep.name",
                       "'%.80s' has a brace without its other one; write keys as {method}", written->text);
            return false;
        }
        good &= check_key(written, at + 1, length, list);
        at += length + 2;
    }
    return good;
}

/* ---- Names ---- */

/* Writes a value as a name may have it: letters, digits, dots, dashes and underscores. Any other characters
 * between them become one "_". */
static void write_value(FILE *out, const char *text) {
    bool gap = false, any = false;
    for (; *text; text++) {
        if (!isalnum((unsigned char)*text) && !strchr(".-_", *text)) {
            gap = true;
            continue;
        }
        if (gap && any) fputc('_', out);
        fputc(*text, out);
        gap = false;
        any = true;
    }
    if (!any) fputs("none", out);
}

static void write_by_template(FILE *out, const char *written, const population_settings *p) {
    while (*written) {
        size_t plain = strcspn(written, "{");
        fwrite(written, 1, plain, out);
        written += plain;
        if (!*written) break;
        size_t length = strcspn(written + 1, "}");
        char *value = value_plain(row_of(written + 1, length), p);
        write_value(out, value);
        free(value);
        written += length + 2;
    }
}

/* A value that begins with a letter stands alone. Others stand behind the last part of their key: rank4. A value
 * that a point lacks leaves no trace, so that names do not change as points with another key are added. */
static void write_by_axes(FILE *out, const settings *s, const population_settings *p) {
    bool any = false;
    for (int i = 0; i < s->n_axes; i++) {
        const char *dot = strrchr(s->axes[i], '.');
        if (strcmp(s->axes[i], "seed") == 0) continue;
        char *value = value_plain(table_find(s->axes[i], true), p);
        if (*value) {
            if (any) fputc('-', out);
            if (!isalpha((unsigned char)value[0])) fputs(dot ? dot + 1 : s->axes[i], out);
            write_value(out, value);
            any = true;
        }
        free(value);
    }
    if (!any) write_value(out, p->method ? p->method : "");
}

char *sweep_name(const settings *s, const char *written, const population_settings *p) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = config_memory(open_memstream(&text, &bytes));
    if (written)
        write_by_template(out, written, p);
    else
        write_by_axes(out, s, p);
    fclose(out);
    return config_memory(text);
}
