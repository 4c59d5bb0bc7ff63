#include "hello.h"

struct built where(void)
{
	return (struct built){ __FILE__, __DATE__, __TIME__ };
}
