/* lists.c - what a population says device by device, from the table. */
#include <stdlib.h>

#include "config/config.h"
#include "config/table.h"

char *settings_lists(const population_settings *p) {
    int count = 0;
    const setting_row *rows = table_rows(&count);
    char *text = NULL;
    size_t bytes = 0;
    bool any = false;
    FILE *out = config_memory(open_memstream(&text, &bytes));
    for (int i = 0; i < count; i++) {
        if (!rows[i].in_population || !table_is_per_device(&rows[i]) || rows[i].alias_of) continue;
        if (((const per_device *)((const char *)p + rows[i].offset))->n == 0) continue;
        fprintf(out, "%s%s ", any ? ", " : "", rows[i].path);
        value_write(&rows[i], p, out);
        any = true;
    }
    fclose(out);
    return config_memory(text);
}
