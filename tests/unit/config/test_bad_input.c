/* Places that a result cannot be written to, and folders that change between the moment a run looks and the
 * moment it begins. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/config.h"
#include "run/folders.h"
#include "support/writable.h"
#include "unit/small_run.h"

static const char *const ONE = "  - {name: l, method: local, devices: 1}\n";

static const char *path_of(const char *name) {
    static char path[4200];
    snprintf(path, sizeof path, "%s/%s", small_folder(), name);
    return path;
}

static void put_file(const char *name) {
    FILE *file = fopen(path_of(name), "w");
    cr_assert_not_null(file);
    fputs("text\n", file);
    cr_assert_eq(fclose(file), 0);
}

/* Asks for a place; what is said of it, "" if nothing. */
static const char *said_of(const char *path) {
    static char said[9000];
    problems *list = problems_create();
    exit_code code = writable_check(path, "the result", list);
    cr_assert_eq(code, problems_count(list) ? EXIT_INPUT : EXIT_OK);
    snprintf(said, sizeof said, "%s", problems_count(list) ? problems_message(list, 0) : "");
    problems_destroy(list);
    return said;
}

Test(bad_input, writable_places_are_left_as_they_were) {
    cr_assert_eq(mkdir(path_of("folder"), 0777), 0);
    static const char *const names[] = {"folder", "folder/", "folder/deep/er", "new", "new//er", "."};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        cr_expect_str_eq(said_of(path_of(names[i])), "", "%s", names[i]);
    cr_assert_eq(chdir(path_of("folder")), 0);
    cr_expect_str_eq(said_of("relative"), "");
    cr_expect_str_eq(said_of("."), "");
    cr_expect_eq(rmdir(path_of("folder")), 0, "something was left in it");
    cr_expect_neq(access(path_of("new"), F_OK), 0);
    cr_expect_neq(said_of("relative")[0], '\0', "the folder that we stand in is gone");
}

Test(bad_input, places_that_cannot_be_written_are_named) {
    char name[400];
    put_file("file");
    cr_assert_eq(symlink("nowhere", path_of("dangling")), 0);
    cr_expect_not_null(strstr(said_of(path_of("file")), "file is no folder"));
    cr_expect_not_null(strstr(said_of(path_of("file/below")), "file is no folder"));
    cr_expect_not_null(strstr(said_of(path_of("dangling/below")), "dangling is no folder"));
    cr_expect_not_null(strstr(said_of("/proc/result"), "the result cannot be written there: /proc: "));
    memset(name, 'x', sizeof name);
    name[sizeof name - 1] = '\0';
    cr_expect_not_null(strstr(said_of(path_of(name)), "File name too long"));
}

/* A run looks, trains a base, and begins; meanwhile `change` happens. */
static const char *said_after(bool resume, void (*change)(void)) {
    static char said[9000];
    settings *s = small_settings(ONE, 0, NULL);
    problems *list = problems_create();
    result_folder folder;
    char out[4200];
    snprintf(out, sizeof out, "%s", path_of("result"));
    small_check(result_choose(s, &(run_options){.out = out, .resume = resume}, &folder, list), list,
                "choosing the folder");
    change();
    exit_code code = result_begin(s, &folder, list);
    cr_assert_eq(code, problems_count(list) ? EXIT_INPUT : EXIT_OK);
    snprintf(said, sizeof said, "%s", problems_count(list) ? problems_message(list, 0) : "");
    result_end(&folder);
    problems_destroy(list);
    settings_destroy(s);
    return said;
}

static void nothing(void) {}

static void another_run_begins(void) {
    mkdir(path_of("result"), 0777);
    put_file("result/config.yaml");
}

static void another_run_saves(void) {
    put_file("result/checkpoint.h5");
}

Test(bad_input, a_folder_that_another_run_has_taken_meanwhile_is_refused) {
    cr_expect_not_null(strstr(said_after(false, another_run_begins), "another run has written to it since"));
}

Test(bad_input, a_result_that_another_run_has_gone_on_with_meanwhile_is_refused) {
    cr_expect_str_eq(said_after(false, nothing), "");
    cr_expect_not_null(strstr(said_after(true, another_run_saves), "another run has written to it since"));
}
