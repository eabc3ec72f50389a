#include "data/text_check.h"

#include <jansson.h>
#include <stdbool.h>
#include <string.h>
#include <strings.h>

/* Text has hardly any control characters but those that lay it out; of the bytes of a compressed file every
 * tenth looks like one. */
enum { BYTES_A_CONTROL = 50 };

static bool ends_with(const char *path, const char *ending) {
    size_t length = strlen(path), of_ending = strlen(ending);
    return length >= of_ending && strcasecmp(path + length - of_ending, ending) == 0;
}

static bool is_control(unsigned char byte) {
    return byte == 0 || (byte < ' ' && !strchr("\t\n\v\f\r\b\033", byte));
}

static bool is_blank(unsigned char byte) {
    return byte == ' ' || byte == '\t' || byte == '\n' || byte == '\r';
}

static exit_code refuse_json(const char *path, const char *what, const char *filter, problems *list) {
    return problem(
        list, EXIT_INPUT,
        "%s: %s; its syntax and its other fields are no text: take the text out first, for "
        "example with jq -r '%s' FILE, and give what that prints; of prompts and responses name the "
        "file itself, FILE.jsonl, as the source",
        path, what, filter);
}

/* Whether the first line that is not blank is a whole object, or the start of an array of objects. */
static exit_code check_json(const char *path, const unsigned char *content, int64_t bytes, problems *list) {
    const unsigned char *line = content, *end = content + bytes;
    bool named = ends_with(path, ".jsonl") || ends_with(path, ".ndjson");
    if (bytes >= 3 && memcmp(line, "\xEF\xBB\xBF", 3) == 0) line += 3;
    while (line < end && is_blank(*line)) line++;
    const unsigned char *newline = line < end ? memchr(line, '\n', (size_t)(end - line)) : NULL;
    size_t length = (size_t)((newline ? newline : end) - line);
    json_t *object = length > 0 && *line == '{' ? json_loadb((const char *)line, length, 0, NULL) : NULL;
    bool is_object = json_is_object(object);
    json_decref(object);
    if (named || is_object) return refuse_json(path, "is JSON Lines, an object a line", ".text", list);
    if (line == end || *line != '[' || !ends_with(path, ".json")) return EXIT_OK;
    do line++;
    while (line < end && is_blank(*line));
    return line < end && *line == '{' ? refuse_json(path, "is a JSON array of objects", ".[].text", list)
                                      : EXIT_OK;
}

static exit_code check_characters(const char *path, const unsigned char *content, int64_t bytes,
                                  problems *list) {
    int64_t zeros = 0, controls = 0;
    for (int64_t i = 0; i < bytes; i++) {
        zeros += content[i] == 0;
        controls += is_control(content[i]);
    }
    if (zeros == 0 && controls * BYTES_A_CONTROL <= bytes) return EXIT_OK;
    return problem(list, EXIT_INPUT,
                   "%s: is no text: %lld of its %lld bytes are control characters, %lld of them 0; give text "
                   "in UTF-8: unpack or convert the "
                   "file, or leave it out",
                   path, (long long)controls, (long long)bytes, (long long)zeros);
}

exit_code text_check(const char *path, const unsigned char *content, int64_t bytes, problems *list) {
    if (bytes == 0) return EXIT_OK;
    if (ends_with(path, ".bin"))
        return problem(list, EXIT_INPUT,
                       "%s: has the name of a token shard, which is no text; a folder of shards "
                       "train_<i>.bin, valid_<i>.bin, test_<i>.bin "
                       "is a corpus already: name the folder as data.corpus",
                       path);
    exit_code code = check_json(path, content, bytes, list);
    return THEN(code, check_characters(path, content, bytes, list));
}
