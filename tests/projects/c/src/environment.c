#include "hello.h"

static const char text[] =
#include "environment.h"
	;

const char *environment(void)
{
	return text;
}
