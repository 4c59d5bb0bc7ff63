#include <assert.h>
#include <stdio.h>

#include "hello.h"

int main(int argc, char **argv)
{
	struct built built = where();

	/* Names this file in the program. */
	assert(argc == 1 && argv[0]);
	printf("%s and %s, on %s at %s\n%s", __FILE__, built.file, built.date, built.time, environment());
	return 0;
}
